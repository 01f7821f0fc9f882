"""The record of a fusion, kept behind the answer's back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
import stores

from models.errors import NotFound
from models.fake import FakeClock
from serve.fusion import record
from serve.fusion.record import Record, Records
from serve.store import schema
from serve.store.database import Database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with stores.empty(f"sqlite:///{tmp_path}/fusion.db") as made:
        yield made


def a_record(name: str = "fus_1", at: float = 100.0, project: str = "default") -> Record:
    return Record(name, at, project, "req_1", {"id": name, "status": "ok"})


async def rows(database: Database) -> list[str]:
    async with database.read() as connection:
        found = await connection.execute(sa.select(schema.fusions.c.id))
        return sorted(found.scalars())


async def test_a_record_can_be_read_at_once_and_after_it_was_written(database: Database) -> None:
    records = Records(database, clock=FakeClock(100.0))
    records.keep(a_record())
    assert (await records.find("fus_1", "default"))["status"] == "ok"
    await records.close()
    assert await rows(database) == ["fus_1"]
    assert (await Records(database).find("fus_1", "default"))["status"] == "ok"


async def test_another_projects_record_is_not_there(database: Database) -> None:
    records = Records(database, clock=FakeClock(100.0))
    records.keep(a_record(project="theirs"))
    for _ in range(2):  # waiting, and written
        with pytest.raises(NotFound):
            await records.find("fus_1", "default")
        await records.close()


async def test_a_store_that_is_down_delays_records_and_nothing_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_RETRY_S", 0.01)
    records = Records(Database("postgresql://nobody@127.0.0.1:1/none"))
    records.keep(replace(a_record(), at=time.time()))
    await asyncio.sleep(0.02)
    assert (await records.find("fus_1", "default"))["status"] == "ok"
    records.database = database
    await records.close()
    assert await rows(database) == ["fus_1"]


async def test_when_too_many_wait_the_oldest_is_given_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "MOST_WAITING", 2)
    records = Records(database, clock=FakeClock(100.0))
    for number in range(3):
        records.keep(a_record(f"fus_{number}"))
    await records.close()
    assert await rows(database) == ["fus_1", "fus_2"]


async def test_old_records_are_forgotten(database: Database) -> None:
    day = 86_400.0
    first = Records(database, days=30, clock=FakeClock(10 * day))
    first.keep(a_record("fus_old", at=10 * day))
    await first.close()
    second = Records(database, days=30, clock=FakeClock(41 * day))
    second.keep(a_record("fus_new", at=41 * day))
    await second.close()
    assert await rows(database) == ["fus_new"]
