"""A plan's results in real databases."""

from __future__ import annotations

import asyncio

import stores

from models.answerer import SystemClock
from serve.plans import graph
from serve.plans.record import Done, PlanBook


async def test_results_that_come_together_are_all_kept_and_a_later_one_replaces(
    store: str,
) -> None:
    made = graph.parse(
        {"subtasks": [{"id": f"s{n}", "kind": "write", "task": "do it"} for n in range(20)]}
    )
    async with stores.empty(store) as database:
        book = PlanBook(database, SystemClock())
        await book.begin("plan_1", "default", "Build it.", made, "run_1")
        await asyncio.gather(
            *(book.finished("plan_1", Done(f"s{n}", f"text {n}", {"n": n})) for n in range(20))
        )
        await book.finished("plan_1", Done("s7", "better", {"n": "it's"}))
        saved = await book.find("plan_1", "default")
    found = {one.subtask: (one.text, one.told) for one in saved.done}
    wanted = {f"s{n}": (f"text {n}", {"n": n}) for n in range(20)}
    assert found == wanted | {"s7": ("better", {"n": "it's"})}
