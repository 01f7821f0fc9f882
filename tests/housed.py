"""A gateway's house with all its rules and stacks, and no Ray: only the models are fakes."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import stores

from models.answerer import Answerer, SystemClock
from models.call import Call
from models.catalog import Catalog
from models.fake import FakeModel
from models.messages import Completion, Request
from models.scaling import FIRST, Fleet
from models.spec import ModelSpec
from models.workforce.names import application_name, hosted
from models.wrappers.fit import Fit
from router.live import Plan, Question, blind
from serve.control import neutral
from serve.control.approvals import Decision
from serve.editions.edition import Edition
from serve.fleet import Count
from serve.fusion.judge import ModelJudge
from serve.jobs.asking import Desk
from serve.money.charge import Charge
from serve.pipeline import Pipeline
from serve.plans.record import PlanBook
from serve.settings import Settings

with warnings.catch_warnings():
    # Ray's modules use what their libraries call old.
    warnings.simplefilter("ignore", DeprecationWarning)
    from serve import parts
    from serve.house import House


@dataclass
class Queue:
    """What waits for a hosted model: `seconds`."""

    seconds: float = 0.0
    missed: int = 0

    def wait_s(self, request: Request, call: Call, places: float) -> float:
        return self.seconds

    def wakes(self, call: Call) -> str:
        return FIRST

    async def count(self, request: Request, call: Call, *, within_s: float) -> int:
        return 0


async def _nothing(_: Any) -> int:
    return 0


class FakeParts(parts.Parts):
    """The stacks of a real process; a model is a fake that is charged for."""

    def __init__(self, house: House, fakes: Mapping[str, FakeModel], queue: Queue) -> None:
        super().__init__(None, house.clock, house.till, lambda _: None, Fleet(), _nothing, 1)
        self._fakes = fakes
        self._queue = queue

    def _one(self, name: str, spec: ModelSpec) -> Answerer:
        tariff = parts._tariff(name, spec)
        return Fit(Charge(self._fakes[name], tariff, self._till, self._clock), name, spec)

    def _workforce(self, name: str, spec: Any) -> Any:
        return self._queue


class Blind:
    """A router by price and strength alone."""

    async def decide(self, question: Question) -> Plan:
        return blind(question)


@dataclass
class Housed:
    """`fakes` answer, by name. `queue` is what waits for each hosted model."""

    house: House
    fakes: dict[str, FakeModel]
    plans: PlanBook
    queue: Queue = field(default_factory=Queue)

    @property
    def edition(self) -> Edition:
        return self.house.editions.current

    @property
    def pipeline(self) -> Answerer:
        return self.edition.pipeline

    @property
    def desk(self) -> Desk:
        """Where the rows of batches are answered."""
        return Desk(self.house.editions, lambda: 0, self.house.clock.now)

    def read(self, name: str) -> list[str]:
        """All that this model was given to read, a text for each call."""
        return [
            "\n".join(one.text for one in request.messages) for request, _ in self.fakes[name].calls
        ]

    async def approve(self) -> Completion | None:
        """A person allows the one thing that is asked, and it goes on."""
        approvals = self.house.control.approvals
        (waiting,) = await approvals.newest(None, "pending")
        yes = Decision(approve=True, by="key", origin="127.0.0.1")
        await approvals.decide(waiting["id"], yes, None, tell=False)
        assert await self.house.control.parking.run_one(self.edition)
        seen = await approvals.read(waiting["id"], None)
        return None if seen["answer"] is None else neutral.completion(seen["answer"])


@asynccontextmanager
async def housed(
    folder: Path, catalog: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, **replies: Any
) -> AsyncIterator[Housed]:
    """A house on the store in this folder, which it finds as others left it."""
    known = Catalog.model_validate(catalog)
    running = {application_name(*one): {FIRST: Count(1, 1)} for one in hosted(known).items()}
    monkeypatch.setattr(parts, "_counts", lambda: running)
    fakes = {name: FakeModel(name, replies.get(name, f"I am {name}")) for name in known.models}
    url = f"sqlite:///{folder}/fusion.db"
    if not (folder / "fusion.db").exists():
        async with stores.empty(url):
            pass
    clock = SystemClock()
    house = House(Settings(catalog=known, store=url, host="127.0.0.1"), None, clock)
    made = Housed(house, fakes, PlanBook(house.database, clock))
    house._parts = FakeParts(house, fakes, made.queue)

    def wiring(catalog: Catalog, models: Answerer) -> Answerer:
        return Pipeline(catalog, models, ModelJudge(models), Blind(), clock, plans=made.plans)

    await house.open(wiring)
    try:
        yield made
    finally:
        await house.editions.aclose()
        await house.till.close()
        await house.control.close()
        await house.database.close()
