"""What a plan costs beside the models that carry it out: `python tests/bench/plans.py`.

200 subtasks, 20 side by side and 10 in a row, with instant models, then with models of 0.2 s. The
rival is the critical path: what the same subtasks take when nothing else has to be done.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)

from models.answerer import SystemClock  # noqa: E402  # the path is set above
from models.call import Call  # noqa: E402
from models.catalog import PLAN, Catalog  # noqa: E402
from models.fake import FakeModel  # noqa: E402
from models.messages import PlanOptions, Request, user  # noqa: E402
from serve.plans.plan import Means, Plan  # noqa: E402
from serve.plans.record import PlanBook  # noqa: E402
from serve.store import migrate  # noqa: E402
from serve.store.database import Database  # noqa: E402

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


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/plans.db")
        await migrate.upgrade(database)
        book = PlanBook(database, SystemClock())
        own = await seconds(book, 0.0)
        path = 0.2 * (DEPTH + 1)
        whole = await seconds(book, 0.2)
        await database.close()
    print(f"{WIDTH * DEPTH} subtasks with instant models: {own:.2f} s (promise: under 2 s)")
    print(
        f"with models of 0.2 s: {whole:.2f} s; the critical path takes {path:.2f} s: "
        f"{whole / path:.2f} of it (promise: at most 1.1)"
    )


if __name__ == "__main__":
    asyncio.run(main())
