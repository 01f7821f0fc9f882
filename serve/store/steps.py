"""Transactions as generators: a statement out, its rows in.

    def renamed(identity: str, name: str) -> Steps[bool]:
        found = yield "update sessions set name = ? where id = ? returning id", (name, identity)
        return bool(found)

    await database.run(renamed("ses_1", "Trip"))

Between its statements such a function decides, and it never waits for anything else. So SQLite
does the whole of it on the connection's own thread, one hop there and back, and PostgreSQL with
nothing before its driver. It is for what every call to a model passes; elsewhere SQLAlchemy says
the same in words that are checked.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import sqlite3
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeVar

import asyncpg

T = TypeVar("T")
Row = Sequence[Any]
Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Together:
    """Statements that change rows of their own each, and give none: no row is changed by two of
    them, and none sees what another one did. PostgreSQL gets them as one message."""

    steps: Sequence[tuple[str, Values]]


#: A statement marks its values with `?`, and holds no other question mark. With a list of values
#: it is done for each, and gives no rows.
Step = tuple[str, Values | list[Values]] | Together
Steps = Generator[Step, list[Row], T]


@dataclass(frozen=True, slots=True)
class How:
    """How a transaction runs."""

    write: bool = True
    #: Of two with a lock in common the second begins when the first is committed.
    locks: Sequence[str] = ()
    #: Whether it waits until PostgreSQL's disk has it. What does not wait is seen by all at once,
    #: and it is on disk with the next one that waits or a fraction of a second later.
    flushed: bool = True
    #: It is one step, which PostgreSQL does whole or not at all without being told where it begins
    #: and ends. What follows then only reads. One that is not flushed is a `Together`.
    alone: bool = False


#: How a statement of several parts ends. What the second one sets is so until it is committed.
_FLUSHED = "select 1"
_RELAXED = "select set_config('synchronous_commit', 'off', true)"
WRITE = How()
READ = How(write=False)
ALONE = How(alone=True)


class Runner(Protocol):
    async def run(self, steps: Steps[T], how: How) -> T:
        """What `steps` returns, with all of it committed; or nothing of it, where it raises."""
        ...

    async def close(self) -> None: ...


class SqliteRunner:
    """Two connections, a thread each: writes come one after the other anyway, so here they wait
    in line instead of asking again and again; and what only reads waits for nobody."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._reader = _Thread(connect, "BEGIN")
        self._writer = _Thread(connect, "BEGIN IMMEDIATE")

    async def run(self, steps: Steps[T], how: How) -> T:
        return await (self._writer if how.write else self._reader).run(steps)

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()


class _Thread:
    def __init__(self, connect: Callable[[], sqlite3.Connection], begin: str) -> None:
        self._connect = connect
        self._begin = begin
        self._connection: sqlite3.Connection | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store")

    async def run(self, steps: Steps[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, steps)

    async def close(self) -> None:
        await asyncio.to_thread(self._executor.shutdown)
        if self._connection is not None:
            self._connection.close()

    def _run(self, steps: Steps[T]) -> T:
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        connection.execute(self._begin)
        try:
            step = next(steps)
            while True:
                step = steps.send(_done(connection, step))
        except StopIteration as end:
            connection.execute("COMMIT")
            result: T = end.value
            return result
        finally:
            connection.rollback()  # nothing, where it was committed


def _done(connection: sqlite3.Connection, step: Step) -> list[Row]:
    if isinstance(step, Together):
        for statement, one in step.steps:
            connection.execute(statement, one)
        return []
    statement, values = step
    if isinstance(values, list):
        connection.executemany(statement, values)
        return []
    return connection.execute(statement, values).fetchall()


class PostgresRunner:
    """`connect` says where. `timeout_s` bounds a whole transaction."""

    def __init__(self, timeout_s: float, **connect: Any) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._pool: asyncpg.Pool | None = None

    async def run(self, steps: Steps[T], how: How) -> T:
        if self._pool is None:
            # What a transaction leaves behind ends with it, so there is nothing to reset.
            self._pool = asyncpg.create_pool(
                **self._connect,
                min_size=0,
                max_size=8,
                max_inactive_connection_lifetime=0,
                reset=_leave,
            )
        pool = await self._pool
        async with asyncio.timeout(self._timeout_s), pool.acquire() as connection:
            if not how.write or how.alone:
                return await _driven(connection, steps, _FLUSHED if how.flushed else _RELAXED)
            try:
                await connection.execute(_begin(how))
                result = await _driven(connection, steps, _FLUSHED)
                await connection.execute("commit")
            except BaseException:
                await self._undo(connection)
                raise
            return result

    async def _undo(self, connection: Any) -> None:
        try:
            await connection.execute("rollback", timeout=self._timeout_s)
        except Exception:  # whatever is wrong with it: a connection that breaks off undoes all
            connection.terminate()

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()


async def _driven(connection: Any, steps: Steps[T], ending: str) -> T:
    try:
        step = next(steps)
        while True:
            rows: list[Row] = []
            if isinstance(step, Together):
                if step.steps:
                    statements, values = zip(*step.steps, strict=True)
                    whole = _whole(statements, ending)
                    await connection.execute(whole, *itertools.chain.from_iterable(values))
            elif isinstance(step[1], list):
                await connection.executemany(_numbered(step[0]), step[1])
            else:
                rows = await connection.fetch(_numbered(step[0]), *step[1])
            step = steps.send(rows)
    except StopIteration as end:
        result: T = end.value
        return result


async def _leave(connection: Any) -> None:
    return None


@cache
def _whole(statements: tuple[str, ...], ending: str) -> str:
    """All of them as parts of one."""
    parts = ", ".join(f"step{at} as ({one})" for at, one in enumerate(statements))
    return _numbered(f"with {parts} {ending}")


@cache
def _numbered(statement: str) -> str:
    """With its values marked as PostgreSQL marks them: $1, $2."""
    first, *others = statement.split("?")
    return first + "".join(f"${at}{text}" for at, text in enumerate(others, 1))


def _begin(how: How) -> str:
    """All that comes before a transaction's own statements, in one message. Locks are taken in
    the same order by all, so that nobody waits for somebody who waits for him."""
    relaxed = () if how.flushed else ("set local synchronous_commit to off",)
    numbers = sorted(map(_number, how.locks))
    locks = (f"select pg_advisory_xact_lock({number})" for number in numbers)
    return "; ".join(("begin", *relaxed, *locks))


def _number(lock: str) -> int:
    return int.from_bytes(hashlib.sha256(lock.encode()).digest()[:8], signed=True)


def marks(values: Sequence[object]) -> str:
    """`?, ?, ?`: as many as there are values."""
    return ", ".join(itertools.repeat("?", len(values)))
