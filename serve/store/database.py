"""One database, opened by every process that needs it: SQLite on one machine, PostgreSQL beyond.

`read()` and `write()` are transactions. A write locks before it reads: on SQLite the whole file
(`BEGIN IMMEDIATE`), on PostgreSQL the rows that are selected `FOR UPDATE`. So what a decision
was made on is still true when it is written. `run()` is the same for the paths that every call to
a model takes: a transaction as `steps`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from models.errors import BadRequest, StoreUnavailable
from models.wal import use_wal
from serve.store.steps import WRITE, How, PostgresRunner, Runner, SqliteRunner, Steps

T = TypeVar("T")
#: How long a statement or a lock may take before the store counts as unreachable.
TIMEOUT_S = 5.0
#: The same for a migration, which may rewrite a table of years.
MIGRATION_S = 1800.0
_BARE = (sqlite3.Error, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
#: PostgreSQL's states for a text that its encoding does not have.
_ZERO = ("22021", "22P05")
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


def parse(url: str) -> URL:
    """The address of a store: `sqlite:////FOLDER/FILE` or `postgresql://USER@HOST/NAME`.

    Raises ValueError that says what is wrong. A password is refused: addresses are written to
    files and shown; drivers take it from `PGPASSWORD` or `~/.pgpass`.
    """
    try:
        made = make_url(url)
    except sa.exc.ArgumentError:
        raise ValueError(
            "not a URL; write sqlite:////FOLDER/FILE or postgresql://USER@HOST/NAME"
        ) from None
    if made.drivername not in _DRIVERS:
        raise ValueError(f"'{made.drivername}' is not supported; use sqlite or postgresql")
    if made.password is not None:
        raise ValueError("a password stands in it; leave it out and set PGPASSWORD instead")
    if not made.database:
        raise ValueError("it names no database")
    if made.drivername == "sqlite" and not Path(made.database).expanduser().is_absolute():
        raise ValueError("its file is relative; write sqlite:////FOLDER/FILE with four slashes")
    return made


class Database:
    """A pool of connections to the store at `url`. Every failure is a StoreUnavailable, but
    for a text that cannot be kept."""

    def __init__(self, url: str) -> None:
        self.url = parse(url)
        self.is_sqlite = self.url.drivername == "sqlite"
        self._engine = _engine(self.url, TIMEOUT_S)
        self._runner = _runner(self.url)

    async def run(self, steps: Steps[T], how: How = WRITE) -> T:
        """A transaction as `steps`, and what it returns."""
        with _told():
            return await self._runner.run(steps, how)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that changes nothing."""
        with _told():
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed at the end of the block, whole or not at all."""
        async with _written(self._engine) as connection:
            yield connection

    @asynccontextmanager
    async def migration(self) -> AsyncIterator[AsyncConnection]:
        """A write that may take long, and waits as long for others to end."""
        engine = _engine(self.url, MIGRATION_S)
        try:
            async with _written(engine) as connection:
                yield connection
        finally:
            await engine.dispose()

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An insert that may say what to do where the row is there already."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    async def close(self) -> None:
        await self._runner.close()
        await self._engine.dispose()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        _refuse_zero(error.orig)
        raise StoreUnavailable(
            f"The store failed: {error.orig or type(error).__name__}", retry_after_s=1.0
        ) from None
    except (SQLAlchemyError, OSError, TimeoutError, *_BARE) as error:
        _refuse_zero(error)
        # asyncpg's own failures to connect come bare, also those that the server answered with.
        raise StoreUnavailable(
            f"The store cannot be reached ({type(error).__name__}).", retry_after_s=1.0
        ) from None


def _refuse_zero(error: BaseException | None) -> None:
    """PostgreSQL keeps no zero byte in a text: that is the caller's fault, whose text it is."""
    if getattr(error, "sqlstate", None) in _ZERO:
        raise BadRequest("A text has a zero byte (\\u0000), which no store can keep.") from None


@asynccontextmanager
async def _written(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    with _told():
        async with engine.connect() as connection:
            await connection.execution_options(fusion_write=True)
            async with connection.begin():
                yield connection


def _engine(url: URL, timeout_s: float) -> AsyncEngine:
    if url.drivername == "postgresql":
        settings = {"timeout": TIMEOUT_S, "command_timeout": timeout_s}
        return create_async_engine(
            url.set(drivername=_DRIVERS["postgresql"]),
            connect_args=settings,
            pool_size=4,
            max_overflow=4,
            pool_timeout=TIMEOUT_S,
            # A database that was restarted must not fail one call for each old connection.
            pool_pre_ping=True,
        )
    _file(url).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_async_engine(
        url.set(drivername=_DRIVERS["sqlite"], database=str(_file(url))),
        connect_args={"timeout": timeout_s},
    )
    sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    sa.event.listen(engine.sync_engine, "begin", _begin_sqlite)
    sa.event.listen(engine.sync_engine, "invalidate", _free_sqlite)
    return engine


def _runner(url: URL) -> Runner:
    if url.drivername == "postgresql":
        return PostgresRunner(
            TIMEOUT_S, host=url.host, port=url.port, user=url.username, database=url.database
        )

    def connect() -> sqlite3.Connection:
        # Its thread opens it, and whoever closes the store closes it.
        made = sqlite3.connect(_file(url), timeout=TIMEOUT_S, check_same_thread=False)
        _prepare_sqlite(made, None)
        return made

    return SqliteRunner(connect)


def _file(url: URL) -> Path:
    assert url.database is not None
    return Path(url.database).expanduser().absolute()


def _prepare_sqlite(connection: Any, _: object) -> None:
    # The driver would begin transactions by itself, and only before the first write.
    connection.isolation_level = None
    cursor = connection.cursor()
    # WAL: readers and one writer at a time, from many processes. NORMAL: a commit survives the
    # process, and a power failure may lose the last ones but never the file.
    use_wal(cursor.execute, TIMEOUT_S)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _free_sqlite(connection: Any, _: object, __: object) -> None:
    """Whoever is cancelled in the middle of a write has its connection closed. It would keep the
    file locked for as long as anybody, be it the garbage collector, holds a statement of it."""
    with suppress(SQLAlchemyError, sqlite3.Error):
        connection.rollback()


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("fusion_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
