"""The store: transactions, migrations, and what its failures look like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
import stores

from models.answerer import SystemClock
from models.errors import BadRequest, StoreUnavailable, Unavailable
from serve.jobs.files import Files
from serve.store import migrate, schema
from serve.store.database import Database, parse
from serve.store.steps import READ, Steps

INSERT = "insert into accounts (name, settled) values (?, ?)"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/folder with a space/fusion.db")
    await migrate.upgrade(made)
    yield made
    await made.close()


async def test_migrations_make_what_the_schema_says(database: Database) -> None:
    assert await stores.differences(database) == []


async def test_a_second_upgrade_changes_nothing(database: Database) -> None:
    await migrate.upgrade(database)


async def test_files_in_larger_pieces_are_cut_into_smaller_ones(tmp_path: Path) -> None:
    made, mib = Database(f"sqlite:///{tmp_path}/old.db"), 1 << 20
    await migrate.upgrade(made, to="0010")
    content = b"".join(b"%d," % number for number in range(400_000))
    assert mib < len(content) < 3 * mib
    async with made.write() as connection:
        for number in range(3):
            data = content[number * mib : (number + 1) * mib]
            part = {"file": "f", "number": number, "at": 1, "data": data}
            await connection.execute(sa.insert(schema.file_parts).values(part))
    await migrate.upgrade(made)
    files = Files(made, SystemClock())
    assert b"".join([piece async for piece in files.content("f")]) == content
    assert await files.read("f", mib - 7, 300_000) == content[mib - 7 :][:300_000]
    await made.close()


async def test_a_store_of_a_newer_version_is_refused(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(sa.text("update alembic_version set version_num = '9999'"))
    with pytest.raises(ValueError, match="newer version"):
        await migrate.upgrade(database)


async def test_a_write_is_whole_or_not_at_all(database: Database) -> None:
    with pytest.raises(RuntimeError):
        async with database.write() as connection:
            await connection.execute(sa.insert(schema.accounts).values(name="all"))
            raise RuntimeError
    async with database.read() as connection:
        assert (await connection.execute(sa.select(schema.accounts))).all() == []


async def test_writers_wait_for_each_other(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(sa.insert(schema.accounts).values(name="all", settled=0))

    async def add() -> None:
        async with database.write() as connection:
            seen = (await connection.execute(sa.select(schema.accounts.c.settled))).scalar_one()
            await asyncio.sleep(0)
            await connection.execute(sa.update(schema.accounts).values(settled=seen + 1))

    await asyncio.gather(*(add() for _ in range(20)))
    async with database.read() as connection:
        assert (await connection.execute(sa.select(schema.accounts.c.settled))).scalar_one() == 20


async def test_a_locked_database_is_unavailable(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.store.database.TIMEOUT_S", 0.05)
    other = Database(f"sqlite:///{database.url.database}")
    async with database.write():
        with pytest.raises(StoreUnavailable, match="locked"):
            async with other.write():
                pass
    await other.close()


async def test_a_migration_waits_longer_than_a_request(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.store.database.TIMEOUT_S", 0.05)
    other = Database(f"sqlite:///{database.url.database}")
    async with database.write():
        upgrading = asyncio.create_task(migrate.upgrade(other))
        await asyncio.sleep(0.3)
        assert not upgrading.done()
    await upgrading
    await other.close()


async def test_a_full_disk_is_unavailable_and_loses_nothing(tmp_path: Path) -> None:
    made = Database(f"sqlite:///{tmp_path}/full.db")
    await migrate.upgrade(made)
    async with made.write() as connection:
        await connection.execute(sa.insert(schema.accounts).values(name="kept"))
    with pytest.raises(StoreUnavailable, match="full"):
        async with made.write() as connection:
            # SQLite's own way to a full disk: no page beyond those in use.
            await connection.execute(sa.text("PRAGMA max_page_count = 1"))
            await connection.execute(sa.insert(schema.accounts).values(name="x" * 200_000))
    async with made.read() as connection:
        names = (await connection.execute(sa.select(schema.accounts.c.name))).scalars().all()
    assert names == ["kept"]
    await made.close()


async def test_a_database_that_is_not_there_is_unavailable() -> None:
    made = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable, match="cannot be reached"):
        async with made.read():
            pass
    await made.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "not a URL"),
        ("mysql://host/db", "not supported"),
        ("postgresql://me:hunter2@host/db", "PGPASSWORD"),
        ("postgresql://me@host", "names no database"),
        ("sqlite://", "names no database"),
        ("sqlite:///fusion.db", "relative"),
    ],
)
def test_a_bad_address_is_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse(url)
    assert "hunter2" not in str(caught.value)


# Transactions as steps


def renamed(name: str, to: str) -> Steps[int]:
    found = yield "update accounts set name = ? where name = ? returning settled", (to, name)
    if not found:
        raise KeyError(name)
    return int(found[0][0])


async def accounts(database: Database) -> list[str]:
    def steps() -> Steps[list[str]]:
        rows = yield "select name from accounts order by name", ()
        return [name for (name,) in rows]

    return await database.run(steps(), READ)


async def test_steps_are_done_whole_or_not_at_all(database: Database) -> None:
    def both(first: str, second: str) -> Steps[int]:
        yield INSERT, [("a", 1), ("b", 2)]
        return (yield from renamed(first, "c")) + (yield from renamed(second, "d"))

    with pytest.raises(KeyError):
        await database.run(both("a", "nobody"))
    assert await accounts(database) == []
    assert await database.run(both("a", "b")) == 3
    assert await accounts(database) == ["c", "d"]


async def test_steps_wait_for_no_one_who_only_writes_elsewhere(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(sa.insert(schema.accounts).values(name="a", settled=0))
        assert await accounts(database) == []
    assert await accounts(database) == ["a"]


async def test_a_write_that_is_cancelled_locks_nobody_out(database: Database) -> None:
    """Not even while somebody still holds what it wrote with."""
    held, inserted = list[object](), asyncio.Event()
    slow = "with recursive n(i) as (select 1 union all select i + 1 from n where i < {}) {}"

    async def write() -> None:
        async with database.write() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            held.append(raw._connection)
            await connection.execute(sa.insert(schema.accounts).values(name="a", settled=0))
            inserted.set()
            counted = slow.format(3_000_000, "select count(*) from n")
            await connection.execute(sa.text(counted))

    writing = asyncio.create_task(write())
    await inserted.wait()
    await asyncio.sleep(0.01)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    other = Database(f"sqlite:///{database.url.database}")
    async with asyncio.timeout(3), other.write() as connection:
        await connection.execute(sa.insert(schema.accounts).values(name="b", settled=0))
    assert await accounts(database) == ["b"]
    await other.close()


async def test_steps_on_a_store_that_fails_are_unavailable(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong() -> Steps[None]:
        yield INSERT, [("a", 1)]
        yield "select * from nothing", ()

    with pytest.raises(StoreUnavailable, match="store"):
        await database.run(wrong())
    assert await accounts(database) == []
    gone = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await gone.run(wrong())
    await gone.close()
    monkeypatch.setattr("serve.store.database.TIMEOUT_S", 0.05)
    other = Database(f"sqlite:///{database.url.database}")
    async with database.write():
        with pytest.raises(StoreUnavailable):
            await other.run(renamed("a", "b"))
    await other.close()


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.CharacterNotInRepertoireError("0x00"),
        sa.exc.DBAPIError("", None, asyncpg.UntranslatableCharacterError("0x00")),
    ],
)
async def test_a_text_that_cannot_be_kept_is_its_callers_fault(
    database: Database, error: Exception
) -> None:
    with pytest.raises(BadRequest, match="zero byte"):
        async with database.read():
            raise error
