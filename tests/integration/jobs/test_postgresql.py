"""A batch in PostgreSQL, the store of more than one machine."""

from __future__ import annotations

import json

import postgres
import pytest
import stores

from models.answerer import SystemClock
from serve.jobs.batch import Spec
from serve.jobs.batches import Batches
from serve.jobs.export import record, results
from serve.jobs.fake import FakeAsker
from serve.jobs.files import Files
from serve.jobs.runner import Runner


async def test_a_batch_is_worked_through_and_resumed_on_postgresql() -> None:
    binaries = postgres.programs()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    with postgres.server(binaries) as server:
        async with stores.empty(server.url) as database:
            clock = SystemClock()
            batches, files = Batches(database, clock), Files(database, clock)
            draft = files.draft()
            for number in range(300):
                line = {"id": f"r{number}", "prompt": f"say {number % 200}"}
                await draft.write(json.dumps(line).encode() + b"\n")
            await draft.write(b"{broken\n")
            file = await files.keep(draft, "default", "in.jsonl", "batch")
            made = await batches.create("default", Spec(file.id, model="m", budget_nano_usd=505))
            first = await Runner(batches, files, FakeAsker(), clock).run(made.id)
            assert (first.state, first.why) == ("cancelled", "budget_exceeded")
            assert first.nano_usd <= 510
            await batches.reopen("default", made.id, budget=1_000_000, window="24h")
            ended = await Runner(batches, files, FakeAsker(), clock).run(made.id)
            assert (ended.state, ended.done, ended.failed) == ("completed", 300, 1)
            assert ended.nano_usd == 2000
            rows = [record(one) async for page in results(batches, ended) for one in page]
            assert len({row["id"] for row in rows}) == 301
            assert [row["answer"] for row in rows[198:202]] == ["198", "199", "0", "1"]
            assert (await files.page("default", purpose=None, after=None, limit=9, newest=True))[0]
