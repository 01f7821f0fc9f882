"""What exact money costs, and whether it is exact: `.venv/bin/python tests/bench/ledger.py [N]`

1. A call that reserves and settles beside a bare one, in memory: microseconds.

3. N (50) crashes of processes that charge, and of their database, on SQLite and PostgreSQL: what
   the provider served beside settled plus held.
"""

from __future__ import annotations

import asyncio
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import crashes
import postgres
import stores
import upstream

from models.answerer import Answerer, Events, SystemClock
from models.call import Call
from models.messages import Completion, Request, Sampling, Usage, assistant, user
from models.prices import Price, usd
from serve.money.bank import Bank
from serve.money.charge import Charge, Tariff
from serve.money.ledger import Limit
from serve.money.till import Till

CALLS = 20_000
PRICE = Price.model_validate({"input": 1, "output": 2})
ANSWER = Completion("gpt", assistant("ok"), usage=Usage(10, 1))


@dataclass
class Instant:
    """A model that takes no time."""

    async def complete(self, request: Request, call: Call) -> Completion:
        return ANSWER

    def stream(self, request: Request, call: Call) -> Events:
        raise NotImplementedError


async def hot_path(folder: Path) -> None:
    async with stores.empty(f"sqlite:///{folder}/fusion.db") as database:
        limits = {"all": Limit(total=10**15), "project:*": Limit(day=10**14)}
        till = Till(Bank(database, SystemClock()), folder, lambda: limits)
        await till.open()
        charge = Charge(Instant(), Tariff("gpt", "flagship", PRICE), till)
        bare = await timed(Instant(), 100)
        print(f"   bare call                        {bare:7.1f} µs")
        for size in (100, 1_000, 10_000, 100_000):
            paid = await timed(charge, size)
            print(f"   reserved and settled, {size:7} B  {paid:7.1f} µs   (+{paid - bare:.1f})")
        await till.close()
        balance = (await till._bank.balances(("all",)))["all"]
        print(f"   then settled {usd(balance.settled)} USD, held {usd(balance.held)}")


async def timed(model: Answerer, size: int) -> float:
    """Median microseconds of a call whose prompt has this many bytes."""
    request = Request("gpt", (user("x" * size),), Sampling(max_tokens=100))
    took = []
    for _ in range(CALLS):
        call = Call()
        began = time.perf_counter()
        await model.complete(request, call)
        took.append(time.perf_counter() - began)
        if not len(took) % 200:
            await asyncio.sleep(0)  # so that the till settles meanwhile, as in a gateway
    return statistics.median(took) * 1e6


def crash(many: int) -> None:
    with upstream.running() as provider, tempfile.TemporaryDirectory() as name:
        run(many, provider, f"sqlite:///{name}/fusion.db", Path(name), None)
    binaries = postgres.programs()
    if binaries is None:
        print("   PostgreSQL is not installed: not measured")
        return
    with (
        upstream.running() as provider,
        tempfile.TemporaryDirectory() as name,
        postgres.server(binaries) as server,
    ):
        run(many, provider, server.url, Path(name), server.crash)


def run(
    many: int, provider: str, store: str, folder: Path, kill: Callable[[], None] | None
) -> None:
    asyncio.run(_empty(store))
    rng, least = random.Random(1), None
    for number in range(many):
        books = crashes.crash(store, provider, folder, rng, kill if number % 2 else None)
        spare = books.settled + books.held - books.billed
        least = spare if least is None else min(least, spare)
        if spare < 0:
            print(f"   NOT COVERED after crash {number + 1}: {books}")
    print(f"   {store.partition(':')[0]}, {many} crashes: {books}")
    print(f"   settled plus held was never less than billed plus {usd(least or 0)}")


async def _empty(store: str) -> None:
    async with stores.empty(store):
        pass


def main() -> None:
    logging.disable(logging.WARNING)  # each crash is meant
    print("1. The hot path (one process, nothing else waits)")
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(hot_path(Path(name)))
    print("2. Crashes")
    crash(int(sys.argv[1]) if len(sys.argv) > 1 else 50)


if __name__ == "__main__":
    main()
