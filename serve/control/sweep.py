"""Forgets what nobody asks for any more: holds of processes that died, old idempotency keys, and
old answers that a request could go on from."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from models.answerer import Clock
from models.errors import StoreUnavailable
from serve.store.database import Database
from serve.store.schema import counter_holds, repeats, responses

EVERY_S = 60.0
#: How long an answer is kept under its idempotency key.
KEPT_S = 86_400.0
_DAY_S = 86_400.0


async def sweep(database: Database, now: float, response_days: float) -> None:
    async with database.write() as connection:
        ended = counter_holds.c.until <= round(now * 1e6)
        await connection.execute(sa.delete(counter_holds).where(ended))
        old = repeats.c.at <= round((now - KEPT_S) * 1e6)
        await connection.execute(sa.delete(repeats).where(old))
        over = responses.c.at <= round((now - response_days * _DAY_S) * 1e6)
        await connection.execute(sa.delete(responses).where(over))


async def run(database: Database, clock: Clock, response_days: Callable[[], float]) -> None:
    """Until cancelled. `response_days` is how long answers are kept to go on from, as the catalog
    in force says."""
    while True:
        await clock.sleep(EVERY_S)
        try:
            await sweep(database, clock.now(), response_days())
        except StoreUnavailable:
            continue
