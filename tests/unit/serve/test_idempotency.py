"""The same key twice is one answer, at the same time, after a restart, and as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import stores
from guarded import until

from models.answerer import SystemClock
from models.call import Call
from models.errors import BadRequest, DeadlineExceeded, Unavailable
from models.fake import FakeClock, FakeModel
from models.messages import Done, Request, TextDelta, user
from serve.control.idempotency import HELD_S, Idempotent
from serve.control.sweep import KEPT_S, sweep
from serve.store.database import Database

HELLO = Request("m", (user("hello"),))
KEYED = Call(idempotency_key="k")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with stores.empty(f"sqlite:///{tmp_path}/fusion.db") as made:
        yield made


async def test_the_same_key_is_the_same_answer(database: Database) -> None:
    model = FakeModel(reply=["first", "second"])
    once = Idempotent(model, database, FakeClock(1000.0))
    assert await once.complete(HELLO, KEYED) == await once.complete(HELLO, KEYED)
    assert len(model.calls) == 1


async def test_without_a_key_each_is_asked(database: Database) -> None:
    model = FakeModel()
    once = Idempotent(model, database, FakeClock(1000.0))
    for _ in range(2):
        await once.complete(HELLO, Call())
    assert len(model.calls) == 2


async def test_at_the_same_time_through_two_processes(database: Database) -> None:
    model = FakeModel(first_token_s=0.2)
    processes = [Idempotent(model, database, SystemClock()) for _ in range(2)]
    answers = await asyncio.gather(*(processes[at % 2].complete(HELLO, KEYED) for at in range(6)))
    assert len(model.calls) == 1
    assert {answer.text for answer in answers} == {"ok"}


async def test_after_a_restart(database: Database) -> None:
    await Idempotent(FakeModel(reply="before"), database, FakeClock(1000.0)).complete(HELLO, KEYED)
    after = Idempotent(FakeModel(reply="after"), database, FakeClock(2000.0))
    assert (await after.complete(HELLO, KEYED)).text == "before"


async def test_a_dead_holder_is_followed(database: Database) -> None:
    clock = FakeClock(1000.0)
    dead = Idempotent(FakeModel(first_token_s=10_000), database, SystemClock())
    task = asyncio.create_task(dead.complete(HELLO, KEYED))
    await until(lambda: bool(dead._inner.calls))  # type: ignore[attr-defined]  # a FakeModel
    async with database.write() as connection:  # killed: nobody says any more that it lives
        await connection.exec_driver_sql(
            f"update repeats set held_until = {int(1e9)}, at = {int(1e9)}"
        )
    clock = FakeClock(1000.0 + HELD_S)
    heir = Idempotent(FakeModel(reply="heir"), database, clock)
    assert (await heir.complete(HELLO, KEYED)).text == "heir"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await heir.complete(HELLO, KEYED)).text == "heir"


async def test_a_failure_is_not_kept(database: Database) -> None:
    model = FakeModel(reply=[Unavailable("down"), "up"])
    once = Idempotent(model, database, FakeClock(1000.0))
    with pytest.raises(Unavailable):
        await once.complete(HELLO, KEYED)
    assert (await once.complete(HELLO, KEYED)).text == "up"


async def test_a_key_is_for_one_request(database: Database) -> None:
    once = Idempotent(FakeModel(), database, FakeClock(1000.0))
    await once.complete(HELLO, KEYED)
    for request, call in (
        (replace(HELLO, model="other"), KEYED),
        (HELLO, replace(KEYED, session="ses_1")),
    ):
        with pytest.raises(BadRequest, match="another request"):
            await once.complete(request, call)


async def test_a_key_is_its_projects(database: Database) -> None:
    model = FakeModel()
    once = Idempotent(model, database, FakeClock(1000.0))
    await once.complete(HELLO, KEYED)
    await once.complete(HELLO, replace(KEYED, project="other"))
    assert len(model.calls) == 2


async def test_an_old_key_is_free_again(database: Database) -> None:
    model = FakeModel()
    await Idempotent(model, database, FakeClock(1000.0)).complete(HELLO, KEYED)
    later = FakeClock(1001.0 + KEPT_S)
    await Idempotent(model, database, later).complete(replace(HELLO, model="other"), KEYED)
    assert len(model.calls) == 2


async def test_a_stream_is_replayed(database: Database) -> None:
    model = FakeModel(reply="one two")
    once = Idempotent(model, database, FakeClock(1000.0))
    first = [event async for event in once.stream(HELLO, KEYED)]
    again = [event async for event in once.stream(HELLO, KEYED)]
    assert first[-1] == again[-1]
    assert again[0] == TextDelta("one two")
    whole = await once.complete(HELLO, KEYED)
    assert isinstance(first[-1], Done)
    assert whole == first[-1].completion
    assert len(model.calls) == 1


async def test_a_stream_that_was_left_keeps_nothing(database: Database) -> None:
    model = FakeModel(reply="one two")
    once = Idempotent(model, database, FakeClock(1000.0))
    stream = once.stream(HELLO, KEYED)
    await anext(stream)
    await stream.aclose()
    assert (await once.complete(HELLO, KEYED)).text == "one two"
    assert len(model.calls) == 2


async def test_who_waits_for_the_same_key_has_a_deadline(database: Database) -> None:
    busy = Idempotent(FakeModel(first_token_s=60), database, SystemClock())
    task = asyncio.create_task(busy.complete(HELLO, KEYED))
    await until(lambda: bool(busy._inner.calls))  # type: ignore[attr-defined]  # a FakeModel
    clock = SystemClock()
    with pytest.raises(DeadlineExceeded):
        await busy.complete(HELLO, replace(KEYED, deadline=clock.now() + 0.2))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_old_keys_are_forgotten(database: Database) -> None:
    await Idempotent(FakeModel(), database, FakeClock(1000.0)).complete(HELLO, KEYED)
    for now, left in ((1001.0, 1), (1001.0 + KEPT_S, 0)):
        await sweep(database, now, 30.0)
        async with database.read() as connection:
            rows = (await connection.exec_driver_sql("select * from repeats")).all()
        assert len(rows) == left
