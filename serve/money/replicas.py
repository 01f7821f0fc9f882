"""What hosted models cost by the hour, split into what calls were charged and what was idle.

A call to a hosted model is charged an imputed price for its tokens; its replicas cost by the
hour, busy or not. The rest goes to an account of its own, so that

    model:<name> (charged by tokens) + idle:<name>  =  hours:<name> = replica-hours x price

to the nano-dollar, over the time that was measured. Where tokens are dearer than the machine
`idle:<name>` is negative: the imputed price is too high.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from models.answerer import Clock
from models.catalog import Catalog
from models.errors import FusionError
from models.prices import nano_of
from models.spec import Hosted
from serve.store.database import Database
from serve.store.schema import accounts, replica_hours

log = logging.getLogger(__name__)

#: How often running replicas are counted.
LOOK_S = 30.0
#: A longer time between two counts was not measured: nothing ran, or nobody looked.
GAP_S = 300.0
_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US


@dataclass(frozen=True, slots=True)
class Counted:
    """Up to when a model's replicas were counted, and its sums until then in nano-dollars."""

    at_us: int
    hours: int = 0
    charged: int = 0
    #: What all its calls ever were charged, when it was counted last.
    charged_ever: int = 0
    #: The UTC day of `at_us`, in days since 1970, and `hours` when that day began.
    day: int = 0
    before: int = 0

    @property
    def idle(self) -> int:
        return self.hours - self.charged

    def today(self, now_us: int) -> int:
        """Nano-dollars of the UTC day of `now_us`."""
        return self.hours - self.before if self.day == now_us // _DAY_US else 0


def count(last: Counted | None, now_us: int, hour_nano: int, charged_ever: int) -> Counted:
    """The sums after replicas of `hour_nano` an hour together ran from the last count until now."""
    day = now_us // _DAY_US
    if last is None:
        return Counted(now_us, charged_ever=charged_ever, day=day)
    passed = now_us - last.at_us
    if passed < 0:  # a clock that went back: wait until it has caught up
        return last
    # What ran across midnight counts to the new day.
    before = last.before if last.day == day else last.hours
    if passed > GAP_S * 1e6:
        return Counted(now_us, last.hours, last.charged, charged_ever, day, before)
    return Counted(
        at_us=now_us,
        hours=last.hours + passed * hour_nano // _HOUR_US,
        charged=last.charged + charged_ever - last.charged_ever,
        charged_ever=charged_ever,
        day=day,
        before=before,
    )


async def spent_today(database: Database, clock: Clock, models: Collection[str]) -> int:
    """Nano-dollars that the replicas of these models have cost since midnight (UTC), counted half a
    minute ago or less."""
    chosen = sa.select(replica_hours).where(replica_hours.c.model.in_(models))
    async with database.read() as connection:
        rows = (await connection.execute(chosen)).all()
    return sum(_counted(row).today(int(clock.now() * 1e6)) for row in rows)


def _counted(row: Any) -> Counted:
    return Counted(row.at, row.hours, row.charged, row.ever, row.day, row.before)


class ReplicaHours:
    """Counts the replicas of hosted models that have a price of an hour. Any number of gateways may
    do it at once: each counts the time since the last of them did.

    `running` says how many replicas each model has now, by place.
    """

    def __init__(
        self,
        database: Database,
        current: Callable[[], Catalog],
        running: Callable[[Catalog], Awaitable[Mapping[str, Mapping[str, int]]]],
        clock: Clock,
    ) -> None:
        self._database = database
        self._current = current
        self._running = running
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._on_and_on())

    async def count(self) -> None:
        """Count once."""
        catalog = self._current()
        priced = {
            name: spec.hours
            for name, spec in catalog.models.items()
            if isinstance(spec, Hosted) and spec.hours
        }
        if not priced:
            return
        replicas = await self._running(catalog)
        for name, hours in priced.items():
            here = replicas.get(name, {})
            hour_nano = sum(here.get(place, 0) * nano_of(hour) for place, hour in hours.items())
            await self._count(name, hour_nano)

    async def _count(self, model: str, hour_nano: int) -> None:
        total = sa.select(accounts.c.settled).where(accounts.c.name == f"model:{model}")
        async with self._database.write() as connection:
            own = replica_hours.c.model == model
            row = (
                await connection.execute(sa.select(replica_hours).where(own).with_for_update())
            ).one_or_none()
            charged = (await connection.execute(total)).scalar()
            last = None if row is None else _counted(row)
            now_us = int(self._clock.now() * 1e6)
            made = count(last, now_us, hour_nano, int(charged or 0))
            values = {
                "at": made.at_us,
                "hours": made.hours,
                "charged": made.charged,
                "ever": made.charged_ever,
                "day": made.day,
                "before": made.before,
            }
            if row is None:
                await connection.execute(sa.insert(replica_hours).values(model=model, **values))
            else:
                await connection.execute(sa.update(replica_hours).where(own).values(**values))

    async def _on_and_on(self) -> None:
        while True:
            await self._clock.sleep(LOOK_S)
            try:
                await self.count()
            except FusionError as error:
                log.warning("replica-hours wait for the store: %s", error.message)
            except Exception:  # what replicas cost must go on being counted
                log.exception("replica-hours could not be counted; it goes on")
