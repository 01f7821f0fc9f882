"""What policies count, as transactions of the store: read, judged and changed in one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from serve.control.policy.engine import Ruling
from serve.control.policy.values import Add, Change, Count, Hold, Put, State
from serve.store.database import Database
from serve.store.schema import counter_holds, counters

#: A million millionths.
_MICROS = 1_000_000


class Counters:
    """Nobody else reads or changes a counter between a verdict on it and the change that follows,
    in whatever process: so what many calls count at the same time is never lost."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def judged(
        self,
        names: Iterable[str],
        holder: str,
        now: float,
        judge: Callable[[State], Ruling],
        *,
        over: bool = False,
    ) -> Ruling:
        """The ruling of `judge` on these counters, and its changes made. With `over`, `holder`
        holds nothing any more."""
        wanted = sorted(set(names))
        async with self._database.write() as connection:
            if not self._database.is_sqlite:
                await _lock(connection, wanted)
            ruling = judge(await _read(connection, wanted, now))
            for change in ruling.changes:
                await self._apply(connection, change, holder)
            if over:
                mine = counter_holds.c.holder == holder
                await connection.execute(sa.delete(counter_holds).where(mine))
            return ruling

    async def read(self, names: Iterable[str], now: float) -> State:
        async with self._database.read() as connection:
            return await _read(connection, sorted(set(names)), now)

    async def put(self, connection: AsyncConnection, name: str, value: int) -> None:
        """Set a counter within somebody's transaction."""
        await self._upsert(connection, name, value, value)

    async def release(self, holder: str, *, settle: bool = False) -> None:
        """Give back all that `holder` holds; or, with `settle`, count it as used."""
        mine = counter_holds.c.holder == holder
        async with self._database.write() as connection:
            held = (await connection.execute(sa.select(counter_holds).where(mine))).all()
            if settle:
                for row in held:
                    await self._apply(connection, Add(row.counter, row.amount), holder)
            if held:
                await connection.execute(sa.delete(counter_holds).where(mine))

    async def _apply(self, connection: AsyncConnection, change: Change, holder: str) -> None:
        match change:
            case Put(name, value):
                await self._upsert(connection, name, value, value)
            case Add(name, amount):
                await self._upsert(connection, name, amount, counters.c.value + amount)
            case Hold(name, amount, until):
                row = {"amount": amount, "until": round(until * _MICROS)}
                insert = self._database.insert(counter_holds)
                insert = insert.values(holder=holder, counter=name, **row)
                await connection.execute(
                    insert.on_conflict_do_update(index_elements=["holder", "counter"], set_=row)
                )

    async def _upsert(
        self, connection: AsyncConnection, name: str, new: int, changed: object
    ) -> None:
        insert = self._database.insert(counters).values(name=name, value=new)
        await connection.execute(
            insert.on_conflict_do_update(index_elements=["name"], set_={"value": changed})
        )


async def _read(connection: AsyncConnection, names: list[str], now: float) -> State:
    values = dict(
        (
            await connection.execute(
                sa.select(counters.c.name, counters.c.value).where(counters.c.name.in_(names))
            )
        )
        .tuples()
        .all()
    )
    alive = (counter_holds.c.counter.in_(names)) & (counter_holds.c.until > round(now * _MICROS))
    held = dict(
        (
            await connection.execute(
                sa.select(counter_holds.c.counter, sa.func.sum(counter_holds.c.amount))
                .where(alive)
                .group_by(counter_holds.c.counter)
            )
        )
        .tuples()
        .all()
    )
    return State({n: Count(values.get(n, 0), int(held.get(n, 0))) for n in {*values, *held}})


async def _lock(connection: AsyncConnection, names: list[str]) -> None:
    """Locks by number, also for counters that have no row yet; always in the same order."""
    numbers = sorted(
        int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True) for name in names
    )
    for number in numbers:
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))
