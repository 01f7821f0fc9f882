"""The record of a fusion, kept behind the answer's back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
import stores
from starlette.requests import HTTPConnection

from models.call import Call
from models.catalog import Catalog
from models.errors import FusionError, NotFound, Unavailable
from models.fake import FakeClock, FakeModel
from models.messages import Progress, Request, user
from serve.access.caller import Caller
from serve.fusion import record
from serve.fusion.deliberation import Resources
from serve.fusion.fusion import Fusion
from serve.fusion.judge import ModelJudge
from serve.fusion.plan import make
from serve.fusion.record import Record, Records
from serve.gateway.rooms.fusions import FusionsRoom
from serve.gateway.site import site
from serve.pipeline import Models
from serve.store import schema
from serve.store.database import Database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with stores.empty(f"sqlite:///{tmp_path}/fusion.db") as made:
        yield made


def kept(days: float = 30) -> Callable[[], Catalog]:
    made = Catalog.model_validate(
        {
            "server": {"fusion_days": days},
            "models": {"m": {"engine": "fake"}},
            "roles": {"judge": "m"},
        }
    )
    return lambda: made


def a_record(name: str = "fus_1", at: float = 100.0, project: str = "default") -> Record:
    return Record(name, at, project, "req_1", {"id": name, "status": "ok"})


async def rows(database: Database) -> list[str]:
    async with database.read() as connection:
        found = await connection.execute(sa.select(schema.fusions.c.id))
        return sorted(found.scalars())


async def test_a_record_can_be_read_at_once_and_after_it_was_written(database: Database) -> None:
    records = Records(database, kept(), FakeClock(100.0))
    records.keep(a_record())
    assert (await records.find("fus_1", "default"))["status"] == "ok"
    await records.close()
    assert await rows(database) == ["fus_1"]
    assert (await Records(database, kept()).find("fus_1", "default"))["status"] == "ok"


async def test_another_projects_record_is_not_there(database: Database) -> None:
    records = Records(database, kept(), FakeClock(100.0))
    records.keep(a_record(project="theirs"))
    for _ in range(2):  # waiting, and written
        with pytest.raises(NotFound):
            await records.find("fus_1", "default")
        await records.close()


async def test_a_store_that_is_down_delays_records_and_nothing_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_RETRY_S", 0.01)
    records = Records(Database("postgresql://nobody@127.0.0.1:1/none"), kept())
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
    records = Records(database, kept(), FakeClock(100.0))
    for number in range(3):
        records.keep(a_record(f"fus_{number}"))
    await records.close()
    assert await rows(database) == ["fus_1", "fus_2"]


async def test_a_catalog_that_keeps_nothing(database: Database) -> None:
    records = Records(database, kept(0), FakeClock(100.0))
    records.keep(a_record())
    with pytest.raises(NotFound):
        await records.find("fus_1", "default")
    await records.close()
    assert await rows(database) == []


async def test_old_records_are_forgotten(database: Database) -> None:
    day = 86_400.0
    first = Records(database, kept(), FakeClock(10 * day))
    first.keep(a_record("fus_old", at=10 * day))
    await first.close()
    second = Records(database, kept(), FakeClock(41 * day))
    second.keep(a_record("fus_new", at=41 * day))
    await second.close()
    assert await rows(database) == ["fus_new"]


# Over HTTP


async def read(records: Records, path: str, asking: Caller) -> httpx.Response:
    async def guard(_: HTTPConnection) -> Caller:
        return asking

    transport = httpx.ASGITransport(app=site([FusionsRoom(records)], guard))
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        return await client.get(path)


async def test_a_whole_fusion_is_read_under_the_id_of_its_answer(database: Database) -> None:
    models = {name: FakeModel(name, "Yes.") for name in ("one", "two")}
    models["judge"] = FakeModel("judge", ['{"not": "an analysis"}', "{}", "It depends."])
    known = Catalog.model_validate(
        {
            "models": {name: {"engine": "fake"} for name in models},
            "panels": {"pair": {"members": ["one", "two"]}},
            "roles": {"judge": "judge"},
        }
    )
    concrete = Models(known, models)
    records = Records(database, kept())
    resources = Resources(known, concrete, ModelJudge(concrete), records=records)
    asked = Request("fusion/pair", (user("Is water wet?"),))
    fusion = Fusion(make(known, "pair", None), resources)
    answer = await fusion.complete(asked, Call(project="ours"))
    path = f"/v1/fusions/{answer.extension['id']}"
    told = (await read(records, path, Caller("ours"))).json()
    assert (told["object"], told["status"], told["output"]) == ("fusion", "ok", "It depends.")
    assert told["messages"] == [{"role": "user", "content": "Is water wet?"}]
    assert told["failure_reason"] == "judge_schema_mismatch"
    assert [one["content"] for one in told["responses"]] == ["Yes.", "Yes."]
    assert (await read(records, path, Caller("theirs"))).status_code == 404
    assert (await read(records, path, Caller("ours", scopes=frozenset()))).status_code == 403
    await records.close()


async def test_a_fusion_that_failed_has_its_record_too(database: Database) -> None:
    known = Catalog.model_validate(
        {
            "models": {"one": {"engine": "fake"}},
            "panels": {"lonely": {"members": ["one"]}},
            "roles": {"judge": "one"},
        }
    )
    models = Models(known, {"one": FakeModel("one", Unavailable("gone"))})
    records = Records(database, kept())
    resources = Resources(known, models, ModelJudge(models), records=records)
    with pytest.raises(FusionError):
        await Fusion(make(known, "lonely", None), resources).complete(
            Request("fusion/lonely", (user("hello"),)), Call()
        )
    await records.close()
    [identity] = await rows(database)
    told = await records.find(identity, "default")
    assert (told["status"], told["failure_reason"]) == ("error", "all_panels_failed")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_fusion_that_was_left_has_all_that_was_cut_off_in_its_record(
    database: Database, streamed: bool
) -> None:
    known = Catalog.model_validate(
        {
            "models": {"one": {"engine": "fake"}},
            "panels": {"itself": {"members": ["one"], "self": 2}},
            "roles": {"judge": "one"},
        }
    )
    models = Models(known, {"one": FakeModel("one", "a b c", token_s=60)})
    records = Records(database, kept())
    fusion = Fusion(
        make(known, "itself", None), Resources(known, models, ModelJudge(models), records=records)
    )
    asked = Request("fusion/itself", (user("hello"),))
    if streamed:
        async with aclosing(fusion.stream(asked, Call())) as events:
            async for event in events:
                if isinstance(event, Progress) and event.kind == "panel.delta":
                    break
    else:
        task = asyncio.create_task(fusion.complete(asked, Call()))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await records.close()
    [identity] = await rows(database)
    told = await records.find(identity, "default")
    assert told["failure_reason"] == "cancelled"
    cut_off = sorted((stage["member"], stage["error"]) for stage in told["stages"])
    assert cut_off == [("one", "Cancelled."), ("one#2", "Cancelled.")]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("slow", ["judge", "writer"])
async def test_who_was_cut_off_behind_the_panel_is_in_the_record_too(
    database: Database, slow: str, streamed: bool
) -> None:
    fakes = {name: FakeModel(name, "a b c") for name in ("one", "judge", "writer")}
    fakes[slow].token_s = 60
    known = Catalog.model_validate(
        {
            "models": {name: {"engine": "fake"} for name in fakes},
            "panels": {"lonely": {"members": ["one"], "synthesis": "writer"}},
            "roles": {"judge": "judge"},
        }
    )
    models, records = Models(known, fakes), Records(database, kept())
    resources = Resources(known, models, ModelJudge(models), records=records)
    fusion = Fusion(make(known, "lonely", None), resources)

    async def ask() -> None:
        asked = Request("fusion/lonely", (user("hello"),))
        if streamed:
            async with aclosing(fusion.stream(asked, Call())) as events:
                async for _ in events:
                    pass
        else:
            await fusion.complete(asked, Call())

    task = asyncio.create_task(ask())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await records.close()
    [identity] = await rows(database)
    told = await records.find(identity, "default")
    last = told["stages"][-1]
    assert (last["model"], last["error"]) == (slow, "Cancelled.")
