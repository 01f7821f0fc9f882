"""What policies count, as transactions of the store: read, judged and changed in one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from serve.control.policy.engine import Ruling
from serve.control.policy.values import Add, Change, Count, Hold, Put, State
from serve.store.database import Database
from serve.store.schema import counters
from serve.store.steps import ALONE, READ, WRITE, How, Steps, Together, Values, marks

#: A million millionths.
_MICROS = 1_000_000
_PUT = """
insert into counters (name, value) values (?, ?)
on conflict (name) do update set value = excluded.value
"""
_ADD = """
insert into counters (name, value) values (?, ?)
on conflict (name) do update set value = counters.value + excluded.value
"""
_HOLD = """
insert into counter_holds (holder, counter, amount, until) values (?, ?, ?, ?)
on conflict (holder, counter) do update set amount = excluded.amount, until = excluded.until
"""
_READ = """
select name, value, 0 from counters where name in ({names})
union all
select counter, 0, cast(sum(amount) as bigint) from counter_holds
where counter in ({names}) and until > ? group by counter
"""
_RELEASE = "delete from counter_holds where holder = ? returning counter, amount"


class Counters:
    """Nobody else reads or changes a counter between a verdict on it and the change that follows,
    in whatever process: so what many calls count at the same time is never lost.

    What is counted before a call is not flushed: a database that crashes breaks off such calls.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def judged(
        self, names: Iterable[str], holder: str, now: float, judge: Callable[[State], Ruling]
    ) -> Ruling:
        """The ruling of `judge` on these counters, and its changes made."""
        wanted = sorted(set(names))

        def steps() -> Steps[Ruling]:
            ruling = judge((yield from _read(wanted, now)))
            yield Together(_changing(ruling.changes, holder))
            return ruling

        return await self._database.run(steps(), How(locks=wanted, flushed=False))

    async def read(self, names: Iterable[str], now: float) -> State:
        return await self._database.run(_read(sorted(set(names)), now), READ)

    async def end(self, holder: str, changes: Sequence[Change], *, flushed: bool) -> None:
        """Make these changes, and give back all that `holder` holds."""

        def steps() -> Steps[None]:
            yield Together([*_changing(changes, holder), (_RELEASE, (holder,))])

        await self._database.run(steps(), How(alone=True, flushed=flushed))

    async def release(self, holder: str, *, settle: bool = False) -> None:
        """Give back all that `holder` holds; or, with `settle`, count it as used."""

        def steps() -> Steps[None]:
            held = yield _RELEASE, (holder,)
            if settle:
                used = [Add(counter, amount) for counter, amount in held]
                yield Together(_changing(used, holder))

        await self._database.run(steps(), WRITE if settle else ALONE)

    async def values(self, connection: AsyncConnection, names: Iterable[str]) -> dict[str, int]:
        """Counters as somebody's transaction sees them."""
        query = sa.select(counters.c.name, counters.c.value).where(counters.c.name.in_(set(names)))
        rows = await connection.execute(query)
        return {row.name: row.value for row in rows}

    async def put(self, connection: AsyncConnection, name: str, value: int) -> None:
        """Set a counter within somebody's transaction."""
        insert = self._database.insert(counters).values(name=name, value=value)
        await connection.execute(
            insert.on_conflict_do_update(index_elements=["name"], set_={"value": value})
        )


def _read(names: Sequence[str], now: float) -> Steps[State]:
    rows = yield _READ.format(names=marks(names)), (*names, *names, round(now * _MICROS))
    counts: dict[str, Count] = {}
    for name, value, held in rows:
        known = counts.get(name, Count())
        counts[name] = Count(known.value + value, known.held + held)
    return State(counts)


def _changing(changes: Iterable[Change], holder: str) -> list[tuple[str, Values]]:
    # Always in the same order: transactions that wait for each other's rows wait in turn.
    ordered = sorted(changes, key=lambda change: change.counter)
    return [_statement(change, holder) for change in ordered]


def _statement(change: Change, holder: str) -> tuple[str, Values]:
    match change:
        case Put(name, value):
            return _PUT, (name, value)
        case Add(name, amount):
            return _ADD, (name, amount)
        case Hold(name, amount, until):
            return _HOLD, (holder, name, amount, round(until * _MICROS))
