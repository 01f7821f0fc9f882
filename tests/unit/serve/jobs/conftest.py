from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import stores

from models.answerer import SystemClock
from serve.jobs.batch import Batch, Spec
from serve.jobs.batches import Batches
from serve.jobs.export import record, results
from serve.jobs.fake import FakeAsker
from serve.jobs.files import Files
from serve.jobs.runner import Runner
from serve.store.database import Database


@dataclass
class House:
    """A store with batches, and somebody to ask."""

    database: Database
    asker: FakeAsker = field(default_factory=FakeAsker)

    def __post_init__(self) -> None:
        clock = SystemClock()
        self.batches, self.files = Batches(self.database, clock), Files(self.database, clock)

    async def upload(self, *lines: Any, project: str = "default", raw: bytes | None = None) -> str:
        text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines)
        draft = self.files.draft()
        await draft.write(text.encode() if raw is None else raw)
        return (await self.files.keep(draft, project, "in.jsonl", "batch")).id

    async def create(self, *lines: Any, project: str = "default", **spec: Any) -> Batch:
        file = await self.upload(*lines, project=project)
        return await self.batches.create(project, Spec(file, **{"model": "m"} | spec))

    def runner(self) -> Runner:
        return Runner(self.batches, self.files, self.asker, SystemClock())

    async def run(self, batch: Batch) -> Batch:
        return await self.runner().run(batch.id)

    async def rows(self, batch: Batch) -> list[dict[str, Any]]:
        return [record(one) async for page in results(self.batches, batch) for one in page]

    async def read(self, file: str | None) -> list[dict[str, Any]]:
        assert file is not None
        content = b"".join([piece async for piece in self.files.content(file)])
        return [json.loads(line) for line in content.splitlines()]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with stores.empty(f"sqlite:///{tmp_path}/store.db") as database:
        yield House(database)
