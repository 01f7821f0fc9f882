"""Somebody to ask that a test owns, with no cluster behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from models.messages import Completion, Stage, Usage, assistant
from serve.jobs.asking import Ask, Reply


def instant(ask: Ask) -> Reply:
    """The last word of what was asked, for two tokens and ten nano-dollars."""
    request, call = ask
    words = request.messages[-1].text.split()
    stage = Stage(call.role, "fake", Usage(len(words), 1), nano_usd=10)
    message = assistant(words[-1] if words else "")
    return Completion("fake", message, usage=stage.usage, stages=(stage,))


@dataclass
class FakeAsker:
    """Answers by `reply`, as many rows at a time as `room` says. Records every ask."""

    reply: Callable[[Ask], Reply] = instant
    seconds: float = 0.0
    room: int = 1_000_000
    #: False: of a long run nothing is recorded.
    keeps: bool = True
    #: Called with every message before it is answered.
    told: Callable[[list[Ask]], object] = len
    asked: list[Ask] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.room)

    async def ask_many(self, asks: list[Ask]) -> list[Reply]:
        self.told(asks)
        if self.keeps:
            self.asked += asks
        return list(await asyncio.gather(*map(self._one, asks)))

    async def stands_for(self, names: list[str]) -> list[str]:
        return [f"model {name}" for name in names]

    async def _one(self, ask: Ask) -> Reply:
        async with self._places:
            if self.seconds:
                await asyncio.sleep(self.seconds)
            return self.reply(ask)
