"""One process with rules in the way of its calls, on a real store, with a fake model behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import stores

from models.answerer import Clock, Events
from models.call import Call
from models.catalog import Catalog
from models.fake import FakeClock, FakeModel
from models.messages import (
    Completion,
    Done,
    Request,
    Sampling,
    Stage,
    ToolCall,
    ToolCallDelta,
    user,
)
from models.prices import NANO_PER_USD
from serve.control.control import Control
from serve.control.entrance import Entrance
from serve.control.policed import Policed
from serve.control.policy.catalog import rules
from serve.store.database import Database

#: A dollar for each word written, nothing for what is read.
PRICE = {"input": 0, "output": 1_000_000}
HELLO = Request("m", (user("hello"),), Sampling(max_tokens=1))
IN_SESSION = Call(session="ses_1")


class Paid:
    """A fake model whose answers carry their price, or that fails."""

    def __init__(self, model: FakeModel, usd: int = 1) -> None:
        self.model = model
        self.usd = usd
        self.tools: tuple[ToolCall, ...] = ()

    async def complete(self, request: Request, call: Call) -> Completion:
        completion = await self.model.complete(request, call)
        return self._billed(completion)

    async def stream(self, request: Request, call: Call) -> Events:
        async with aclosing(self.model.stream(request, call)) as events:
            async for event in events:
                if isinstance(event, Done):
                    for at, tool in enumerate(self.tools):
                        yield ToolCallDelta(at, tool.arguments, tool.id, tool.name)
                    event = Done(self._billed(event.completion))
                yield event

    def _billed(self, completion: Completion) -> Completion:
        stage = Stage("answer", "m", nano_usd=self.usd * NANO_PER_USD)
        message = replace(completion.message, tool_calls=self.tools)
        return replace(completion, stages=(stage,), message=message)


class Guarded:
    """One process: its own control on the store, and a model behind it."""

    def __init__(
        self,
        database: Database,
        policies: dict[str, Any],
        clock: Clock | None = None,
        approvals: dict[str, Any] | None = None,
        **model: Any,
    ) -> None:
        self.clock = clock or FakeClock(1000.0)
        catalog = Catalog.model_validate(
            {
                "models": {
                    "m": {"engine": "fake", "price": PRICE},
                    "small": {"engine": "fake", "price": {"input": 0, "output": 0}},
                },
                "aliases": {"a": "m"},
                "roles": {"judge": "m"},
                "policies": policies,
                "approvals": approvals or {},
            }
        )
        self.model = FakeModel("m", clock=self.clock, **model)
        self.paid = Paid(self.model)
        self.control = Control(database, self.clock)
        made = rules(catalog.policies)
        self.models = Policed(self.paid, catalog, made, self.control)
        self.catalog = catalog
        _open.append(self)
        self.entrance = Entrance(self.models, catalog, made, self.control)

    @property
    def pipeline(self) -> Entrance:
        """With `catalog`: what parked requests run on."""
        return self.entrance

    async def spent(self, counter: str) -> int:
        await self.control.close()
        count = (await self.control.counters.read([counter], self.clock.now())).of(counter)
        return (count.value + count.held) // NANO_PER_USD

    async def audited(self) -> list[tuple[str, str, str]]:
        await self.control.close()
        rows = [row async for row in self.control.audit.export()]
        return [(row["phase"], row["policy"], row["decision"]) for row in rows]


#: The processes of the test at work.
_open: list[Guarded] = []


@asynccontextmanager
async def store(folder: Path) -> AsyncIterator[Database]:
    """An empty store; with it end the processes on it."""
    async with stores.empty(f"sqlite:///{folder}/fusion.db") as made:
        try:
            yield made
        finally:
            while _open:
                await _open.pop().control.close()


async def until(reached: Callable[[], bool]) -> None:
    """Wait for something in real time, as the store takes some."""
    for _ in range(5000):
        if reached():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not happen")
