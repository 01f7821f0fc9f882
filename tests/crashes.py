"""Kills processes that charge, and their database, at random moments, and looks at the books."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
import upstream

from models.answerer import SystemClock
from models.errors import StoreUnavailable
from models.prices import usd
from serve.money.bank import Bank
from serve.money.till import Till
from serve.store.database import Database
from serve.store.schema import entries, leases, unknowns

CHARGING = str(Path(__file__).with_name("charging.py"))


@dataclass(frozen=True)
class Books:
    """What the provider billed beside what the ledger says, in nano-dollars."""

    billed: int
    settled: int
    held: int
    unknown: int
    calls: int

    def __str__(self) -> str:
        return (
            f"billed {usd(self.billed)}, settled {usd(self.settled)}, held {usd(self.held)} "
            f"({self.unknown} unknown), {self.calls} calls booked"
        )


def crash(
    store: str,
    provider: str,
    folder: Path,
    rng: random.Random,
    kill_database: Callable[[], None] | None = None,
    limit_usd: int = 1000,
) -> Books:
    """Let a process charge for a while, kill it (or the database first, and it later), and read
    the books after a neighbour has looked after what it left."""
    command = [sys.executable, CHARGING, store, provider, str(folder), str(limit_usd)]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.05, 0.8))
        if kill_database is not None:
            kill_database()
            time.sleep(rng.uniform(0.05, 0.5))
            assert worker.poll() is None, "a process that charges must outlive its database"
    finally:
        worker.kill()
        worker.wait()
        if worker.stdout is not None:
            worker.stdout.close()
    # The provider goes on with what it had begun, whoever is dead.
    time.sleep(0.1)
    return asyncio.run(books(store, provider, folder))


async def books(store: str, provider: str, folder: Path) -> Books:
    """What stands in the ledger once the journals of the dead have been looked after."""
    database = Database(store)
    bank = Bank(database, SystemClock())
    for attempt in range(100):  # a database that was killed takes its time
        try:
            neighbour = Till(bank, folder, dict)
            await neighbour._recover()
            await neighbour.close()
            break
        except StoreUnavailable:
            if attempt == 99:
                raise
            await asyncio.sleep(0.1)
    balance = (await bank.balances(("all",)))["all"]
    async with database.read() as connection:
        calls = (await connection.execute(sa.select(sa.func.count()).select_from(entries))).scalar()
        open_ends = (await connection.execute(sa.select(unknowns.c.amount))).scalars().all()
        held = (await connection.execute(sa.select(leases.c.amount))).scalars().all()
    await database.close()
    # All that is held is held by somebody who can be named.
    assert sum(open_ends) + sum(held) == balance.held
    assert sum(held) == 0, "a dead process's lease was not looked after"
    billed = await asyncio.to_thread(upstream.billed, provider)
    return Books(billed, balance.settled, balance.held, len(open_ends), int(calls or 0))
