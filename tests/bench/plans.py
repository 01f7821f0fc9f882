"""What a plan costs beside the models that carry it out, and what a killed one does again.

    python tests/bench/plans.py [--kills 20]

200 subtasks, 20 side by side and 10 in a row, with instant models, then with models of 0.2 s. The
rival is the critical path: what the same subtasks take when nothing else has to be done. Then a
plan in a process of its own is killed by SIGKILL at random moments and resumed until it ends.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # This folder goes first of all otherwise, and in it lies another `router`.
    sys.path[:1] = [str(Path(__file__).parents[2])]

from models.answerer import SystemClock
from models.call import Call
from models.catalog import PLAN, Catalog
from models.errors import Conflict
from models.fake import FakeModel
from models.messages import Completion, PlanOptions, Request, user
from serve.plans import record
from serve.plans.plan import Means, Plan
from serve.plans.record import PlanBook, Saved
from serve.store import migrate
from serve.store.database import Database

WIDTH, DEPTH = 20, 10
CATALOG = Catalog.model_validate({"models": {"m": {"engine": "fake"}}, "roles": {"judge": "m"}})


def graph() -> dict[str, Any]:
    """Each subtask needs the whole row before it, so that no row starts early."""
    return {
        "subtasks": [
            {
                "id": f"s{row}-{place}",
                "kind": "write",
                "task": f"do {row} {place}",
                "needs": [f"s{row - 1}-{one}" for one in range(WIDTH)] if row else [],
            }
            for row in range(DEPTH)
            for place in range(WIDTH)
        ]
    }


async def seconds(book: PlanBook, model_s: float) -> float:
    model = FakeModel("m", "a short result", first_token_s=model_s)
    plan = Plan(Means(CATALOG, model, SystemClock(), book))
    request = Request(PLAN, (user("Build it."),), plan=PlanOptions(graph=graph()))
    began = time.perf_counter()
    answer = await plan.complete(request, Call())
    assert not answer.extension["plan"]["missing"]
    return time.perf_counter() - began


class Told(FakeModel):
    """Says which subtask it is asked for, as it is asked."""

    async def complete(self, request: Request, call: Call) -> Completion:
        if call.role == "subtask":
            found = re.search(r"^do (\d+) (\d+)$", request.messages[-1].text, re.M)
            assert found is not None
            print(f"s{found[1]}-{found[2]}", flush=True)
        return await super().complete(request, call)


async def work(folder: str, resume: str | None) -> None:
    """What a child process does: begins the plan, or goes on with it."""
    record.HELD_S = 2.0  # a dead run is missed sooner
    database = Database(f"sqlite:///{folder}/plans.db")
    book = PlanBook(database, SystemClock())
    plan = Plan(
        Means(CATALOG, Told("m", "a short result", first_token_s=0.05), SystemClock(), book)
    )
    options = PlanOptions(resume=resume) if resume else PlanOptions(graph=graph())
    while True:
        try:
            await plan.complete(Request(PLAN, (user("Build it."),), plan=options), Call())
            break
        except Conflict:  # the run that was killed is held to live for a while
            await asyncio.sleep(0.05)
    await database.close()


async def saved(folder: str) -> Saved | None:
    """The one plan of this store."""
    database = Database(f"sqlite:///{folder}/plans.db")
    await migrate.upgrade(database)
    book = PlanBook(database, SystemClock())
    found = await book.list("default")
    plan = await book.find(found[0]["id"], "default") if found else None
    await database.close()
    return plan


def kill(kills: int, seed: int = 0) -> int:
    """Returns how many subtasks were done again that had been under way at a kill."""
    spread = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        plan, killed, asked = asyncio.run(saved(folder)), 0, 0
        while plan is None or plan.status != "done":
            command = [sys.executable, __file__, "--work", folder, plan.id if plan else ""]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            said = process.stdout.readline()
            if killed < kills and said:
                time.sleep(spread.uniform(0.0, 0.15))
                process.send_signal(signal.SIGKILL)
                killed += 1
            begun = (said + process.communicate()[0]).split()
            finished = {one.subtask for one in plan.done} if plan else set()
            again = finished.intersection(begun)
            assert not again, f"finished subtasks ran twice: {sorted(again)}"
            asked += len(begun)
            plan = asyncio.run(saved(folder))
        assert len(plan.done) == WIDTH * DEPTH
        print(
            f"{killed} kills: {len(plan.done)} subtasks done, none that had finished ran twice, "
            f"{asked - len(plan.done)} of those under way were begun again"
        )
        return asked - len(plan.done)


async def speed() -> None:
    # Not above: its neighbour imports Ray, which the tests that use this module do without.
    from serve.house import settle

    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/plans.db")
        await migrate.upgrade(database)
        book = PlanBook(database, SystemClock())
        settle()  # as every gateway does
        own = await seconds(book, 0.0)
        path = 0.2 * (DEPTH + 1)
        whole = await seconds(book, 0.2)
        await database.close()
    print(f"{WIDTH * DEPTH} subtasks with instant models: {own:.2f} s (promise: under 2 s)")
    print(
        f"with models of 0.2 s: {whole:.2f} s; the critical path takes {path:.2f} s: "
        f"{whole / path:.2f} of it (promise: at most 1.1)"
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        asyncio.run(work(asked.work[0], asked.work[1] or None))
        return
    asyncio.run(speed())
    if asked.kills:
        kill(asked.kills)


if __name__ == "__main__":
    main()
