"""Whose prompt a replica reads next: driven without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from models.scaling import Scaling
from models.workforce.reading import Reading, reading
from models.workforce.turns import Target, Ticket

TARGET = Target(ttft_s=2.0, longest_s=60.0, token_s=0.001)


class Engine:
    """Streams of a replica, by name: the first chunk of each comes when it is let go."""

    def __init__(self, rule: Reading | None = None) -> None:
        self.now_s = 100.0
        self.reading = rule or Reading(TARGET, 1000.0, lambda: self.now_s)
        self.begun: list[str] = []
        self.read: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[int]] = {}

    async def _chunks(self, name: str) -> AsyncGenerator[dict[str, Any], None]:
        self.begun.append(name)
        await self.read[name].wait()
        for number in range(3):
            yield {"number": number}

    async def _streamed(self, name: str, mine: Ticket) -> int:
        count = 0
        async with aclosing(self.reading.streamed(mine, self._chunks(name))) as chunks:
            async for _ in chunks:
                count += 1
        return count

    async def ask(self, name: str, prompt: float, waited_s: float = 0.0, **more: Any) -> None:
        self.read[name] = asyncio.Event()
        mine = Ticket("me", prompt=prompt, came_s=self.now_s - waited_s, **more)
        self.tasks[name] = asyncio.create_task(self._streamed(name, mine))
        await asyncio.sleep(0)

    async def has_read(self, name: str) -> None:
        self.read[name].set()
        assert await asyncio.wait_for(self.tasks[name], 1) == 3
        await asyncio.sleep(0)


async def test_the_engine_has_what_it_reads_and_what_it_goes_on_with() -> None:
    engine = Engine()
    for name in "abcd":
        await engine.ask(name, 600)
    assert engine.begun == ["a", "b"]
    await engine.has_read("a")
    assert engine.begun == ["a", "b", "c"]
    await engine.has_read("c")
    assert engine.begun == ["a", "b", "c", "d"]


async def test_short_prompts_are_read_together() -> None:
    engine = Engine()
    for n in range(12):
        await engine.ask(str(n), 100)
    assert len(engine.begun) == 10


async def test_who_can_be_in_time_is_read_before_who_is_late() -> None:
    engine = Engine()
    await engine.ask("a", 1000)
    await engine.ask("late", 500, waited_s=5.0)
    await engine.ask("batch", 500, low=True)
    await engine.ask("early", 500)
    await engine.has_read("a")
    assert engine.begun == ["a", "early", "late"]
    await engine.has_read("early")
    assert engine.begun[3:] == ["batch"]


async def test_who_hangs_up_leaves_its_turn_and_its_room() -> None:
    engine = Engine()
    for name in "abc":
        await engine.ask(name, 1000)
    engine.tasks["b"].cancel()
    await engine.has_read("a")
    assert engine.begun == ["a", "c"]
    engine.tasks["c"].cancel()
    await asyncio.sleep(0)
    await engine.ask("d", 1000)
    assert engine.begun == ["a", "c", "d"]


async def test_who_hangs_up_as_it_is_called_holds_nobody_up() -> None:
    engine = Engine()
    for name in "abc":
        await engine.ask(name, 1000)
    engine.reading._was_read(Ticket(prompt=1000))
    engine.tasks["b"].cancel()
    await asyncio.gather(engine.tasks["b"], return_exceptions=True)
    await asyncio.sleep(0)
    assert engine.begun == ["a", "c"]


async def test_where_nothing_is_promised_nobody_waits() -> None:
    engine = Engine(reading(None))
    for name in "abc":
        await engine.ask(name, 1e6)
    assert engine.begun == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("prefill_tokens_per_s", "begun"),
    [(1000.0, ["a", "b"]), (2000.0, ["a", "b", "c"])],  # a step's tokens; half a second's
)
async def test_a_replica_of_a_scaled_model_keeps_the_order(
    prefill_tokens_per_s: float, begun: list[str]
) -> None:
    scaling = Scaling.model_validate(
        {
            "node": {"usd_per_hour": 1.0, "startup_s": 120.0},
            "replica": {
                "prefill_tokens_per_s": prefill_tokens_per_s,
                "prefill_chunk_tokens": 512,
                "decode": {"step_base_s": 0.04, "step_per_sequence_s": 0.001, "max_batch": 20},
            },
        }
    )
    engine = Engine(reading(scaling))
    for name in "abcd":
        await engine.ask(name, 400)
    assert engine.begun == begun
