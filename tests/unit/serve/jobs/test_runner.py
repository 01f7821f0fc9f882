"""A batch from its input to its files, with somebody to ask who answers at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from models.errors import (
    BadRequest,
    BudgetExceeded,
    ModelNotFound,
    NotFound,
    StoreUnavailable,
    Unavailable,
)
from serve.jobs import runner
from serve.jobs.asking import Ask, Reply
from serve.jobs.batches import NotOurs
from serve.jobs.fake import FakeAsker, instant

if TYPE_CHECKING:
    from conftest import House


def short(name: str, prompt: str = "say hello", **more: Any) -> dict[str, Any]:
    return {"id": name, "prompt": prompt} | more


def official(name: str, prompt: str) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


async def test_every_row_gets_its_answer_and_the_files_are_openai_s(house: House) -> None:
    batch = await house.create(short("a", "say one"), official("b", "say two"))
    ended = await house.run(batch)
    assert (ended.state, ended.rows, ended.done, ended.failed) == ("completed", 2, 2, 0)
    assert ended.nano_usd == 20
    assert ended.tokens == {"fake": (4, 2)}
    assert [(row["id"], row["answer"]) for row in await house.rows(ended)] == [
        ("a", "one"),
        ("b", "two"),
    ]
    output = await house.read(ended.output_file)
    assert [line["custom_id"] for line in output] == ["a", "b"]
    assert output[1]["response"]["status_code"] == 200
    assert output[1]["response"]["body"]["choices"][0]["message"]["content"] == "two"
    assert ended.error_file is None


async def test_a_bad_row_never_stops_the_rest(house: House) -> None:
    batch = await house.create(
        short("good"), "{broken", short("good"), {"id": "empty"}, short("last"), "[]"
    )
    ended = await house.run(batch)
    assert (ended.state, ended.rows, ended.done, ended.failed) == ("completed", 6, 2, 4)
    rows = await house.rows(ended)
    assert len({row["id"] for row in rows}) == 6
    assert [row["status"] for row in rows] == ["done", *["failed"] * 3, "done", "failed"]
    assert "not JSON" in rows[1]["error"]
    assert "stands in line 1 already" in rows[2]["error"]
    assert "neither 'prompt' nor 'messages'" in rows[3]["error"]
    assert [line for line, _ in ended.errors] == [2, 3, 4, 6]
    assert {line["custom_id"] for line in await house.read(ended.error_file)} == {
        row["id"] for row in rows if row["status"] == "failed"
    }


async def test_or_it_ends_the_batch_before_anything_is_paid(house: House) -> None:
    ended = await house.run(await house.create(short("a"), "{", bad_rows="stop"))
    assert ended.state == "failed"
    assert ended.errors[0][0] == 2
    assert not house.asker.asked
    empty = await house.run(await house.create(""))
    assert (empty.state, empty.errors) == ("failed", ((0, "The input has no rows."),))


async def test_nobody_pays_twice_for_the_same_question(house: House) -> None:
    batch = await house.create(*[short(f"r{n}", f"say {n % 10}") for n in range(300)])
    ended = await house.run(batch)
    assert (ended.done, ended.reused, len(house.asker.asked)) == (300, 290, 10)
    assert ended.nano_usd == 100
    again = await house.run(await house.create(short("x", "say 3")))
    assert (again.done, again.reused, again.nano_usd) == (1, 1, 0)
    # But a sample of its own, another project and another model are other questions.
    for spec in ({"project": "other"}, {"model": "other"}):
        assert (await house.run(await house.create(short("x", "say 3"), **spec))).reused == 0
    assert (await house.run(await house.create(short("x", "say 3", sample=1)))).reused == 0


async def test_a_row_that_fails_says_why_and_one_that_could_not_be_asked_is_asked_again(
    house: House,
) -> None:
    tried: Counter[str] = Counter()

    def reply(ask: Ask) -> Reply:
        text = ask[0].messages[-1].text
        tried[text] += 1
        if text == "say never":
            return ModelNotFound("No model is called that.")
        if text == "say later" and tried[text] < 3:
            return Unavailable("Not now.")
        return instant(ask)

    house.asker.reply = reply
    batch = await house.create(short("a", "say never"), short("b", "say later"), short("c"))
    ours = house.runner()
    ours.clock = _Hurry()
    ended = await ours.run(batch.id)
    assert (ended.state, ended.done, ended.failed) == ("completed", 2, 1)
    assert tried == {"say never": 1, "say later": 3, "say hello": 1}
    rows = await house.rows(ended)
    assert (rows[0]["error_code"], rows[0]["error"]) == (
        "model_not_found",
        "No model is called that.",
    )
    line = (await house.read(ended.error_file))[0]
    assert line["response"]["status_code"] == 404
    assert line["response"]["body"]["error"]["code"] == "model_not_found"


async def test_a_model_that_never_comes_back_fails_its_rows_in_the_end(house: House) -> None:
    house.asker.reply = lambda _: Unavailable("Down.")
    ours = house.runner()
    ours.clock = _Hurry()
    ended = await ours.run((await house.create(short("a"), short("b", "say two"))).id)
    assert (ended.state, ended.failed, len(house.asker.asked)) == ("completed", 2, 10)


async def test_the_money_ends_and_what_is_left_is_listed(house: House) -> None:
    lines = [short(f"r{n}", f"say {n}") for n in range(50)]
    ended = await house.run(await house.create(*lines, budget_nano_usd=205))
    assert (ended.state, ended.why) == ("cancelled", "budget_exceeded")
    assert 200 <= ended.nano_usd <= 210
    assert ended.done == ended.nano_usd // 10
    left = await house.read(ended.error_file)
    assert len(left) == 50 - ended.done
    assert {line["error"]["code"] for line in left} == {"budget_exceeded"}
    # More money, and it goes on where it was.
    await house.batches.reopen("default", ended.id, budget=10_000, window="24h")
    again = await house.run(ended)
    assert (again.state, again.done, again.nano_usd) == ("completed", 50, 500)
    assert again.error_file is None
    files, _ = await house.files.page(
        "default", purpose="batch_output", after=None, limit=9, newest=True
    )
    assert [file.id for file in files] == [again.output_file]
    assert len(house.asker.asked) == 50


async def test_caps_of_the_rows_stay_within_the_budget(house: House) -> None:
    def reply(ask: Ask) -> Reply:
        cap = ask[1].cost_cap_nano_usd
        assert cap is not None
        return BudgetExceeded("Too dear for its cap.") if cap < 10 else instant(ask)

    house.asker.reply = reply
    lines = [short(f"r{n}", f"say {n}") for n in range(50)]
    ended = await house.run(await house.create(*lines, budget_nano_usd=205))
    assert (ended.why, ended.nano_usd, ended.done) == ("budget_exceeded", 200, 20)


async def test_its_time_ends(house: House) -> None:
    batch = await house.create(short("a"), short("b", "say two"))
    ours = house.runner()
    ours.clock = _Hurry(batch.expires_at + 1)
    ended = await ours.run(batch.id)
    assert (ended.state, ended.why, ended.done) == ("expired", "expired", 0)
    assert {row["error"]["code"] for row in await house.read(ended.error_file)} == {"batch_expired"}


async def test_a_second_runner_takes_over_and_the_first_changes_nothing_more(
    house: House,
) -> None:
    batch = await house.create(*[short(f"r{n}", f"say {n}") for n in range(100)])
    slow = house.runner()
    slow.asker = _Thief(house, batch.id)
    with pytest.raises(NotOurs):
        await slow.run(batch.id)
    ended = await house.batches.get("default", batch.id)
    assert (ended.state, ended.done) == ("completed", 100)
    assert len(await house.rows(ended)) == 100


async def test_a_batch_of_another_project_is_not_there(house: House) -> None:
    batch = await house.create(short("a"), project="theirs")
    with pytest.raises(NotFound):
        await house.batches.get("ours", batch.id)
    with pytest.raises(NotFound):
        await house.batches.cancel("ours", batch.id)
    with pytest.raises(NotFound):
        await house.files.get("ours", batch.spec.input_file)
    assert await house.batches.page("ours", None, 10) == ([], False)


async def test_what_has_ended_is_not_begun_again(house: House) -> None:
    ended = await house.run(await house.create(short("a")))
    with pytest.raises(BadRequest, match="nothing left to do"):
        await house.batches.reopen("default", ended.id, None, "24h")
    with pytest.raises(BadRequest, match="has ended already"):
        await house.batches.cancel("default", ended.id)


async def test_long_rows_are_read_in_small_chunks(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_CHUNK_BYTES", 1000)
    lines = [short(f"r{n}", f"{'x' * 600} {n}") for n in range(6)]
    ended = await house.run(await house.create(*lines))
    assert [row["answer"] for row in await house.rows(ended)] == [str(n) for n in range(6)]


async def test_rows_of_ten_megabytes_are_rows_and_longer_ones_are_refused(house: House) -> None:
    long = "x" * 10_000_000
    batch = await house.create(short("r", f"{long} 0"), short("huge", long * 2), short("last"))
    ended = await house.run(batch)
    assert (ended.state, ended.done, ended.failed) == ("completed", 2, 1)
    rows = await house.rows(ended)
    assert [row["answer"] for row in rows] == ["0", None, "hello"]
    assert (rows[1]["line"], rows[1]["error_code"]) == (2, "invalid_request")
    assert "16000000 is the most" in rows[1]["error"]


async def test_a_full_disk_under_the_store_ends_it_and_it_goes_on_where_it_was(
    house: House,
) -> None:
    """The database may take only so many pages; then it says what it says on a full disk."""
    batch = await house.create(*[short(f"r{n}", f"say {'y' * 3000}{n}") for n in range(400)])
    size = 0

    def few(connection: Any, _: object = None) -> None:
        connection.execute(f"pragma max_page_count = {size}")

    engine = house.database._engine
    sa.event.listen(engine.sync_engine, "connect", few)
    async with house.database.read() as connection:
        size = await connection.scalar(sa.text("pragma page_count")) + 100
    await engine.dispose()
    ours = house.runner()
    ours.clock = _Passing()
    with pytest.raises(StoreUnavailable, match="database or disk is full"):
        await ours.run(batch.id)

    size = 1_000_000  # somebody has made room
    await engine.dispose()
    stopped = await house.batches.get("default", batch.id)
    assert 0 < stopped.done < 400
    assert not stopped.has_ended
    before = len(house.asker.asked)
    ended = await house.run(stopped)
    assert (ended.state, ended.done) == ("completed", 400)
    assert [row["id"] for row in await house.rows(ended)] == [f"r{n}" for n in range(400)]
    assert len(house.asker.asked) - before == 400 - stopped.done


async def test_the_analysis_the_sources_and_the_cost_stand_in_a_row(house: House) -> None:
    row = (await house.rows(await house.run(await house.create(short("a")))))[0]
    assert json.loads(row["stages"])[0]["cost_usd"] == "0.00000001"
    assert (row["cost_usd"], row["input_tokens"], row["output_tokens"]) == ("0.00000001", 2, 1)
    assert (row["analysis"], row["sources"], row["error"]) == (None, "[]", None)


class _Hurry:
    """A clock on which nobody waits."""

    def __init__(self, now: float | None = None) -> None:
        self._now = time.time() if now is None else now

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        # Heartbeats would spin.
        await asyncio.sleep(0.001)


class _Passing(_Hurry):
    """One on which the time that nobody waits for passes."""

    async def sleep(self, seconds: float) -> None:
        self._now += seconds
        await super().sleep(seconds)


class _Thief(FakeAsker):
    """While it is asked, another runner does the whole batch."""

    def __init__(self, house: House, batch: str) -> None:
        super().__init__()
        self._house, self._batch = house, batch
        self._stolen = asyncio.Lock()

    async def ask_many(self, asks: list[Ask]) -> list[Reply]:
        async with self._stolen:
            await self._house.runner().run(self._batch)
        return await super().ask_many(asks)
