"""A batch from its input to its files, with somebody to ask who answers at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from models.answerer import SystemClock
from models.errors import (
    BadRequest,
    BudgetExceeded,
    ModelNotFound,
    NotFound,
    StoreUnavailable,
    Unavailable,
    UpstreamError,
)
from models.messages import RouteOptions
from serve.jobs import runner
from serve.jobs.asking import Ask, Reply
from serve.jobs.batches import Batches, NotOurs
from serve.jobs.fake import FakeAsker, instant
from serve.jobs.files import Files
from serve.jobs.purse import Purse
from serve.jobs.runner import _Work
from serve.money.bank import Bank, Lease
from serve.money.ledger import Entry
from serve.store import schema

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


async def test_a_name_that_was_made_up_is_nobody_s(house: House) -> None:
    batch = await house.create("{broken", short("line 1"), short("x"), short("x"), short("line 4"))
    rows = await house.rows(await house.run(batch))
    assert [row["status"] for row in rows] == ["failed", "done", "done", "failed", "done"]


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


async def test_an_outage_fails_no_row(house: House) -> None:
    ours = house.runner()
    ours.clock = clock = _Passing()
    back = clock.now() + 120
    house.asker.reply = lambda ask: Unavailable("Down.") if clock.now() < back else instant(ask)
    ended = await ours.run((await house.create(short("a"), short("b", "say two"))).id)
    assert (ended.state, ended.done, ended.failed) == ("completed", 2, 0)


async def test_a_model_that_never_comes_back_is_waited_for_until_the_batch_expires(
    house: House,
) -> None:
    house.asker.reply = lambda _: Unavailable("Down.")
    ours = house.runner()
    ours.clock = _Passing()
    ended = await ours.run((await house.create(short("a"), window="10m")).id)
    assert (ended.state, ended.failed) == ("expired", 0)


async def test_a_row_that_fails_while_others_are_answered_fails_in_the_end(house: House) -> None:
    def reply(ask: Ask) -> Reply:
        never = ask[0].messages[-1].text == "say never"
        return Unavailable("Down.") if never else instant(ask)

    house.asker.reply = reply
    rows = [short(f"r{n}", f"say {n}") for n in range(3)]
    ours = house.runner()
    ours.clock = _Passing()
    ours.window.size, began = 1, ours.clock.now()
    ended = await ours.run((await house.create(*rows, short("x", "say never"), window="2h")).id)
    assert (ended.state, ended.done, ended.failed) == ("completed", 3, 1)
    # One round beside answers, then as long as an outage may be, then its other tries.
    assert ours.clock.now() - began > 1800


async def test_a_cancel_before_the_runner_came_is_heard(house: House) -> None:
    batch = await house.create(short("a"), short("b"))
    assert (await house.batches.cancel("default", batch.id)).state == "cancelling"
    ended = await house.run(batch)
    assert (ended.state, ended.why, ended.rows, ended.done) == ("cancelled", "cancelled", 2, 0)
    assert not house.asker.asked
    await house.batches.reopen("default", batch.id, None, "24h")
    assert (await house.run(batch)).done == 2


async def test_a_cancel_while_the_input_is_read_is_heard(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await house.create(short("a"), short("b"))
    validated = house.batches.validated

    async def then_cancelled(*args: Any) -> Any:
        found = await validated(*args)
        await house.batches.cancel("default", batch.id)
        return found

    monkeypatch.setattr(house.batches, "validated", then_cancelled)
    ended = await house.run(batch)
    assert (ended.state, ended.done, house.asker.asked) == ("cancelled", 0, [])


async def test_whoever_was_taken_for_dead_does_not_revive_a_cancelled_batch(house: House) -> None:
    batch = await house.batches.take((await house.create(short("a"))).id, "slow")
    late = Batches(house.database, _Hurry(time.time() + 1000))
    assert (await late.cancel("default", batch.id)).state == "cancelled"
    with pytest.raises(NotOurs):
        await house.batches.end(batch.id, "slow", "completed")


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


async def test_rows_that_are_refused_below_their_worst_case_leave_with_more(house: House) -> None:
    """Each may cost twenty times what it does: few leave at a time, and all are answered."""

    def reply(ask: Ask) -> Reply:
        cap = ask[1].cost_cap_nano_usd
        assert cap is not None
        return BudgetExceeded("Too dear for its cap.") if cap < 200 else instant(ask)

    house.asker.reply = reply
    lines = [short(f"r{n}", f"say {n}") for n in range(500)]
    ended = await house.run(await house.create(*lines, budget_nano_usd=7000))
    assert (ended.state, ended.done, ended.nano_usd) == ("completed", 500, 5000)
    assert len(house.asker.asked) < 700


async def test_one_row_over_a_limit_of_its_own_does_not_stop_the_others(house: House) -> None:
    def reply(ask: Ask) -> Reply:
        dear = ask[0].model == "dear"
        return BudgetExceeded("The tier's limit is reached.") if dear else instant(ask)

    house.asker.reply = reply
    others = [short(f"r{n}", f"say {n}") for n in range(20)]
    dear = short("dear", model="dear")
    for lines in ([dear, *others], [*others, dear]):
        ended = await house.run(await house.create(*lines))
        assert (ended.state, ended.done, ended.failed) == ("completed", 20, 1)
        failed = [row["error"] for row in await house.rows(ended) if row["status"] == "failed"]
        assert failed == ["The tier's limit is reached."]


async def test_within_a_budget_it_fails_once_another_one_is_answered_after_it(
    house: House,
) -> None:
    def reply(ask: Ask) -> Reply:
        dear = ask[0].model == "dear"
        return BudgetExceeded("It has no price.") if dear else instant(ask)

    house.asker.reply = reply
    dear, others = short("dear", model="dear"), [short("a"), short("b", "say two")]
    for lines, state, failed in (
        ([dear, *others], "completed", 1),
        ([*others, dear], "cancelled", 0),
    ):
        ours = house.runner()
        ours.window.size = 1
        project = {"project": state, "budget_nano_usd": 1000}
        ended = await ours.run((await house.create(*lines, **project)).id)
        # Where nothing came after it, it may be the money, and more of it may help.
        assert (ended.state, ended.done, ended.failed) == (state, 2, failed)


async def test_a_limit_that_refuses_all_rows_stops_the_batch_and_fails_none(house: House) -> None:
    house.asker.reply = lambda _: BudgetExceeded("The project's limit is reached.")
    lines = [short(f"r{n}", f"say {n}") for n in range(100)]
    ended = await house.run(await house.create(*lines))
    assert (ended.state, ended.why, ended.failed) == ("cancelled", "budget_exceeded", 0)


async def test_what_failed_rows_cost_counts_against_the_budget(house: House) -> None:
    house.asker.reply = lambda _: UpstreamError("Wrong.")
    batch = await house.create(*[short(f"r{n}", f"say {n}") for n in range(99)], budget_nano_usd=50)
    ours = house.runner()
    ours.window.size = 4
    work = _Work(ours, await house.batches.take(batch.id, ours.name), Purse(50))
    ours.bank = Bank(house.database, SystemClock())
    entry = Entry("e", 0, "r", "default", "workforce", "answer", "fake", job=batch.id, nano_usd=60)
    lease = await ours.bank.lease("holder", entry.accounts, {}, least=60, wanted=60)
    assert isinstance(lease, Lease)
    await ours.bank.settle(lease.id, [(entry, 60)])
    await work.look_at_bills()
    await work.all()
    assert work.stop == "budget_exceeded"
    assert not house.asker.asked


async def test_a_row_s_own_words_to_this_server_hold(house: House) -> None:
    ours = {"quality": 1.0, "cost_cap_usd": 0.000001, "deadline_s": 5}
    batch = await house.create(
        short("a", fusion=ours), short("b", fusion={"quality": 0.0}), short("c", fusion=ours)
    )
    ended = await house.run(batch)
    assert (ended.done, ended.reused) == (3, 1)
    (request, call), (other, _) = house.asker.asked
    assert (request.route, other.route) == (RouteOptions(quality=1.0), RouteOptions(quality=0.0))
    assert call.cost_cap_nano_usd == 1000
    assert call.remaining_s(time.time()) < 6


async def test_a_row_that_its_own_cap_stops_fails(house: House) -> None:
    house.asker.reply = lambda _: BudgetExceeded.of_cap("Beyond its cap.")
    batch = await house.create(short("a", fusion={"cost_cap_usd": 0.000001}), budget_nano_usd=9999)
    ended = await house.run(batch)
    assert (ended.state, ended.failed) == ("completed", 1)


@pytest.mark.parametrize("budget", [None, 10**9])
async def test_rows_with_caps_of_their_own_are_not_burnt_by_a_limit_that_ended(
    house: House, budget: int | None
) -> None:
    house.asker.reply = lambda _: BudgetExceeded("The project's limit is reached.")
    lines = [short(f"r{n}", f"say {n}", fusion={"cost_cap_usd": 5}) for n in range(64)]
    ended = await house.run(await house.create(*lines, budget_nano_usd=budget))
    assert (ended.state, ended.why, ended.failed) == ("cancelled", "budget_exceeded", 0)


async def test_an_answer_that_was_asked_for_before_fails_no_row_that_is_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The money ends while some are answered: those refused since wait for more of it."""
    work = await _begun(house, 12)
    slow = asyncio.Event()

    async def ask_many(asks: list[Ask]) -> list[Reply]:
        if len(asks) == 2:
            await slow.wait()
            return [instant(ask) for ask in asks]
        return [BudgetExceeded("The project's limit is reached.")] * len(asks)

    monkeypatch.setattr(house.asker, "ask_many", ask_many)
    rows = await house.batches.pending(work.batch.id, 0, 12)
    first = asyncio.create_task(work._chunk(rows[:2], work._share(2)))
    await asyncio.sleep(0.01)
    await work._chunk(rows[2:], work._share(10))
    slow.set()
    await first
    assert (work.batch.done, work.batch.failed, len(work.refused)) == (2, 0, 10)


async def test_dear_rows_beside_answers_end_no_batch(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = await _begun(house, 40)

    async def ask_many(asks: list[Ask]) -> list[Reply]:
        dear = [BudgetExceeded("The tier's limit is reached.")] * 20
        return [*dear, *(instant(ask) for ask in asks[20:])]

    monkeypatch.setattr(house.asker, "ask_many", ask_many)
    rows = await house.batches.pending(work.batch.id, 0, 40)
    await work._chunk(rows, work._share(40))
    assert (work.stop, work.batch.done, len(work.refused)) == (None, 20, 20)


async def _begun(house: House, rows: int) -> _Work:
    """The work on a batch of so many rows, read and in progress."""
    batch = await house.create(*[short(f"r{n}", f"say {n}") for n in range(rows)])
    ours = house.runner()
    work = _Work(ours, await house.batches.take(batch.id, ours.name), Purse(None))
    assert await work._validate()
    return work


async def test_a_store_that_fails_for_a_moment_while_rows_are_read_is_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for whose, name in (
        (house.batches, "pending"),
        (house.files, "read"),
        (house.batches, "known"),
    ):
        monkeypatch.setattr(whose, name, _fails_once(getattr(whose, name)))
    ours = house.runner()
    ours.clock = _Passing()
    ended = await ours.run((await house.create(short("a"), short("b", "say two"))).id)
    assert (ended.state, ended.done) == ("completed", 2)


async def test_an_expired_input_stays_until_its_batch_has_ended(house: House) -> None:
    batch = await house.create(short("a"))
    later = Files(house.database, _Hurry(time.time() + 10))
    async with house.database.write() as connection:
        soon = round((time.time() + 5) * 1e6)
        await connection.execute(sa.update(schema.files).values(expires_at=soon))
    await later.sweep()
    assert (await house.run(batch)).state == "completed"
    await later.sweep()
    assert [piece async for piece in house.files.content(batch.spec.input_file)] == []


async def test_answers_are_told_though_the_input_is_gone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await house.create(short("a", "say one"), short("b", "say two"))
    asked = house.asker.ask_many

    async def then_gone(asks: list[Ask]) -> list[Reply]:
        await house.files.remove([batch.spec.input_file])
        return await asked(asks)

    monkeypatch.setattr(house.asker, "ask_many", then_gone)
    ended = await house.run(batch)
    assert (ended.state, ended.done) == ("completed", 2)
    first = (await house.read(ended.output_file))[0]
    assert first["response"]["body"]["choices"][0]["message"]["content"] == "one"


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


def _fails_once(method: Any) -> Any:
    calls = iter(range(1000))

    async def failing(*args: Any) -> Any:
        if next(calls) == 0:
            raise StoreUnavailable("Not now.")
        return await method(*args)

    return failing


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
