"""What policies, sessions and approvals cost.

    python tests/bench/control.py path     what they add to a chat call, on each database
    python tests/bench/control.py store    a store of 100,000 sessions of 50 items (SQLite)
    FUSION_KILLS=50 pytest -s tests/integration/store/test_control_crashes.py    fifty kills

The path is measured in one process over an instant fake model, the plain and the guarded call in
turn, so that the machine's drift is in both.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import postgres
import stores

from models.answerer import Answerer, SystemClock
from models.call import Call
from models.catalog import Catalog
from models.fake import FakeModel
from models.messages import Request, user
from serve.control import neutral
from serve.control.control import Control
from serve.control.entrance import Entrance
from serve.control.idempotency import Idempotent
from serve.control.policed import Policed
from serve.control.policy.catalog import rules
from serve.control.policy.values import Add
from serve.control.sessions.remembering import Remembering
from serve.control.sessions.store import Sessions
from serve.store.database import Database
from serve.store.steps import Steps

CALLS = 300
SESSIONS, ITEMS = 100_000, 50
HELLO = Request("m", (user("hello"),))
CATALOG = Catalog.model_validate(
    {
        "models": {"m": {"engine": "fake", "price": {"input": 1, "output": 1}}},
        "roles": {"judge": "m"},
        "policies": {
            "budget": {"kind": "spend", "limit_usd": 1_000_000},
            "rate": {"kind": "rate", "per_minute": 1_000_000, "concurrent": 1000},
            "size": {"kind": "size", "max_prompt_chars": 1_000_000},
        },
    }
)


async def path(name: str, url: str) -> None:
    async with stores.empty(url) as database:
        clock = SystemClock()
        control, kept = Control(database, clock), Sessions(database, clock)
        made, model = rules(CATALOG.policies), FakeModel("m")
        models = Policed(model, CATALOG, made, control)
        inner = Remembering(models, CATALOG, models, kept)
        guarded = Idempotent(Entrance(inner, CATALOG, made, control), database, clock)
        only_rules = Entrance(models, CATALOG, made, control)
        plain: list[float] = []
        ruled: list[float] = []
        both: list[float] = []
        for at in range(CALLS):
            if at % 20 == 0:  # sessions of up to forty items
                session = (await kept.create("default"))["id"]
            plain.append(await timed(model, Call()))
            ruled.append(await timed(only_rules, Call()))
            both.append(await timed(guarded, Call(session=session)))
        for flushed in (False, True):
            what = f"one count{', flushed to disk' if flushed else ''}"
            end = partial(control.counters.end, "h", (Add("c", 1),), flushed=flushed)
            await measured(f"{name:11} {what}", end)
        await control.close()
    for what, times in (("policies", ruled), ("policies and session", both)):
        added = sorted(one - base for one, base in zip(times, plain, strict=True))
        p50, p95 = statistics.median(added), added[int(len(added) * 0.95)]
        print(f"   {name:11} {what:26} p50 {p50 * 1000:6.2f} ms   p95 {p95 * 1000:6.2f} ms added")


async def timed(answerer: Answerer, call: Call) -> float:
    began = time.perf_counter()
    await answerer.complete(HELLO, call)
    return time.perf_counter() - began


async def large(folder: str) -> None:
    async with stores.empty(f"sqlite:///{folder}/fusion.db") as database:
        began = time.monotonic()
        await fill(database)
        seconds = time.monotonic() - began
        print(f"   {SESSIONS:,} sessions of {ITEMS} items, written in {seconds:.0f} s")
        kept = Sessions(database, SystemClock())
        middle = f"ses_{SESSIONS // 2:08}"
        await measured("a first page of 20", lambda: kept.newest("default"))
        await measured("a page in the middle", lambda: kept.newest("default", before=middle))
        await measured("open one, its 50 items", lambda: kept.page(middle, "default"))
        await measured("its history for a model", lambda: kept.history(middle, "default"))


async def measured(what: str, ask: Callable[[], Awaitable[object]]) -> None:
    times = []
    for _ in range(50):
        began = time.perf_counter()
        await ask()
        times.append(time.perf_counter() - began)
    times.sort()
    print(f"   {what:38} p50 {times[25] * 1000:6.2f} ms   p95 {times[47] * 1000:6.2f} ms")


async def fill(database: Database) -> None:
    line = "a line of a conversation that somebody had with a model"
    message = neutral.dumps(user(line))

    def steps(first: int, last: int) -> Steps[None]:
        names = {at: f"ses_{at:08}" for at in range(first, last)}
        yield (
            "insert into sessions (id, project, name, created_at, updated_at, archived, length) "
            "values (?, 'default', ?, ?, ?, ?, ?)",
            [
                (name, f"session {at}", at * 1000, at * 1000, False, ITEMS)
                for at, name in names.items()
            ],
        )
        yield (
            "insert into session_items (session, position, id, at, message, turn) "
            "values (?, ?, ?, ?, ?, '')",
            [
                (name, place, f"item_{name}_{place}", at * 1000, message)
                for at, name in names.items()
                for place in range(ITEMS)
            ],
        )

    for start in range(0, SESSIONS, 500):
        await database.run(steps(start, start + 500))


async def main(what: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if what == "store":
            await large(folder)
            return
        await path("SQLite", f"sqlite:///{folder}/fusion.db")
        if (binaries := postgres.programs()) is None:
            print("   PostgreSQL  is not installed, so not measured")
            return
        with postgres.server(binaries) as made:
            await path("PostgreSQL", made.url)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "path"))
