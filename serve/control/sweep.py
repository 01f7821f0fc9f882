"""Forgets what nobody asks for any more: holds of processes that died, and old idempotency keys."""

from __future__ import annotations

import sqlalchemy as sa

from models.answerer import Clock
from models.errors import StoreUnavailable
from serve.store.database import Database
from serve.store.schema import counter_holds, repeats

EVERY_S = 60.0
#: How long an answer is kept under its idempotency key.
KEPT_S = 86_400.0


async def sweep(database: Database, now: float) -> None:
    async with database.write() as connection:
        ended = counter_holds.c.until <= round(now * 1e6)
        await connection.execute(sa.delete(counter_holds).where(ended))
        old = repeats.c.at <= round((now - KEPT_S) * 1e6)
        await connection.execute(sa.delete(repeats).where(old))


async def run(database: Database, clock: Clock) -> None:
    """Until cancelled."""
    while True:
        await clock.sleep(EVERY_S)
        try:
            await sweep(database, clock.now())
        except StoreUnavailable:
            continue
