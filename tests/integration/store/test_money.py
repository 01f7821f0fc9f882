"""Money under load, with real HTTP and real processes: a limit is never passed, and nothing that
a provider served is ever free, whoever is killed when."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import crashes
import pytest
import sqlalchemy as sa
import stores
import upstream
from charging import ASKED, paying

from models.answerer import SystemClock
from models.call import Call
from models.errors import BudgetExceeded
from models.prices import usd
from serve.money.bank import Bank
from serve.money.ledger import Limit
from serve.store.schema import leases

CRASHES = 5
DOLLAR = 10**9


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    with upstream.running() as url:
        yield url


async def test_two_hundred_requests_at_once_never_pass_a_dollar(
    store: str, provider: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    billed_before = upstream.billed(provider)
    refusals: Counter[str] = Counter()
    async with stores.empty(store) as database:
        bank = Bank(database, SystemClock())
        limits = {"all": Limit(total=DOLLAR)}
        most, done = 0, asyncio.Event()

        async def watch() -> None:
            nonlocal most
            while not done.is_set():
                balance = (await bank.balances(("all",)))["all"]
                most = max(most, balance.settled + balance.held)
                await asyncio.sleep(0.005)

        # Two gateways of one installation.
        async with (
            paying(database, provider, tmp_path, limits) as (one, _),
            paying(database, provider, tmp_path, limits) as (two, _),
        ):

            async def ask(number: int) -> int:
                try:
                    await (one if number % 2 else two).complete(ASKED, Call())
                except BudgetExceeded as refused:
                    refusals[refused.message.partition(",")[0]] += 1
                    assert "its limit is 1 USD in total" in refused.message
                    assert "could cost up to" in refused.message
                    return 0
                return 1

            watching = asyncio.create_task(watch())
            served = sum(await asyncio.gather(*(ask(number) for number in range(200))))
            await asyncio.sleep(1.5)  # what nobody needs goes back by itself
            done.set()
            await watching
            balance = (await bank.balances(("all",)))["all"]
            async with database.read() as connection:
                left = (await connection.execute(sa.select(leases.c.amount))).scalars().all()
    billed = upstream.billed(provider) - billed_before
    with capsys.disabled():
        print(
            f"\n  {database.url.drivername}: {served} served, {200 - served} refused; "
            f"billed {usd(billed)}, settled {usd(balance.settled)}, held {usd(balance.held)}, "
            f"settled plus held never above {usd(most)}"
        )
    assert most <= DOLLAR
    assert balance.settled == billed == served * upstream.CENT
    assert balance.held == 0
    assert left == []
    # The worst case of a call is more than twice its bill, and still most of the budget is used.
    assert 50 <= served <= 100
    assert sum(refusals.values()) == 200 - served


@pytest.mark.timeout(300)
def test_what_was_served_is_covered_whoever_is_killed(
    store: str,
    provider: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def prepare() -> None:
        async with stores.empty(store):
            pass

    asyncio.run(prepare())
    kill = None
    if store.startswith("postgresql"):
        kill = request.getfixturevalue("postgresql").crash
    billed_before = upstream.billed(provider)
    rng = random.Random(7)
    for number in range(CRASHES):
        # SQLite has no process of its own: it dies with each that uses it.
        books = crashes.crash(store, provider, tmp_path, rng, kill if number % 2 else None)
        books = replace(books, billed=books.billed - billed_before)
        covered = books.settled + books.held
        with capsys.disabled():
            print(f"\n  {store.partition(':')[0]} crash {number + 1}: {books}", end="")
        assert books.calls > 0
        assert covered >= books.billed
        assert covered <= 1000 * DOLLAR
