"""The till on a real store: what it lets pass, what it asks the store, what it leaves."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stores

from models.answerer import SystemClock
from models.call import Call
from models.errors import BudgetExceeded, StoreUnavailable
from serve.money import till as till_module
from serve.money.bank import LEASE_S, LOST_S, Bank, Lease
from serve.money.journal import Left
from serve.money.ledger import Balance, Entry, Limit, Refusal
from serve.money.till import Till
from serve.store.database import Database

CENT = 10_000_000
LIMITS = {"all": Limit(total=100 * CENT), "key:*": Limit(day=10 * CENT)}
Made = Callable[..., Till]
REQUEST = Call("req_1")


class SetClock(SystemClock):
    """The real time, moved by `by` seconds."""

    by = 0.0

    def now(self) -> float:
        return super().now() + self.by


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with stores.empty(f"sqlite:///{tmp_path}/fusion.db") as made:
        yield made


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def bank(database: Database, clock: SetClock) -> Bank:
    return Bank(database, clock)


@pytest.fixture
async def made(bank: Bank, tmp_path: Path, clock: SetClock) -> AsyncIterator[Made]:
    """Makes tills of one machine."""
    tills: list[Till] = []

    def one(limits: dict[str, Limit] | None = None, **options: object) -> Till:
        tills.append(Till(bank, tmp_path, lambda: limits or {}, clock=clock, **options))
        return tills[-1]

    yield one
    for till in tills:
        await till.close()


def entry(name: str, cost: int | None = None, key: str | None = None) -> Entry:
    who = (name, 1.5, "req_1", "default", "flagship", "answer", "gpt")
    return Entry(*who, key=key, nano_usd=cost)


async def call(till: Till, name: str, worst: int, cost: int, key: str | None = None) -> None:
    made = entry(name, key=key)
    till.settle(await till.reserve(made, worst), replace(made, nano_usd=cost))


async def balance(bank: Bank, name: str = "all") -> Balance:
    return (await bank.balances((name,)))[name]


async def test_many_calls_ask_the_store_once(made: Made, bank: Bank, monkeypatch) -> None:
    till, asked = made(), []
    lease = bank.lease

    async def counted(*args: object, **options: object) -> object:
        asked.append(options["wanted"])
        return await lease(*args, **options)

    monkeypatch.setattr(bank, "lease", counted)
    for number in range(16):
        await call(till, f"led_{number}", 100, 60)
    assert asked == [1600]
    await till.flush()
    assert (await balance(bank)).settled == 16 * 60
    await till.close()
    assert await balance(bank) == replace(await balance(bank), settled=960, held=0)


async def test_a_call_that_could_pass_a_limit_is_told_which(made: Made, bank: Bank) -> None:
    till = made(LIMITS)
    for number in range(10):
        await call(till, f"led_{number}", CENT, CENT, key="k")
    with pytest.raises(BudgetExceeded, match=r"key:k .*0\.1 USD a day.*up to 0\.01 USD"):
        await till.reserve(entry("led_x", key="k"), CENT)
    await call(till, "led_y", CENT, CENT, key="other")


async def test_what_a_call_did_not_need_is_free_again(made: Made) -> None:
    till = made({"all": Limit(total=10 * CENT)})
    for number in range(10):
        await call(till, f"led_{number}", 9 * CENT, CENT // 10)
    with pytest.raises(BudgetExceeded, match=r"0\.1 USD in total"):
        await till.reserve(entry("led_x"), 9 * CENT + 1)


async def test_a_limit_is_read_at_the_moment_of_use(made: Made) -> None:
    limits: dict[str, Limit] = {"all": Limit(total=CENT)}
    till = made(limits)
    with pytest.raises(BudgetExceeded):
        await till.reserve(entry("led_1"), 2 * CENT)
    limits["all"] = Limit(total=2 * CENT)
    await call(till, "led_2", 2 * CENT, 0)


async def test_an_unpriced_model_is_refused_where_a_budget_applies(made: Made) -> None:
    till = made({"tier:workforce": Limit(day=CENT)})
    till.settle(await till.reserve(entry("led_1"), None), entry("led_1"))
    with pytest.raises(BudgetExceeded, match=r"'gpt' has no price.*tier:workforce.*models\.gpt"):
        await till.reserve(replace(entry("led_2"), tier="workforce"), None)
    with pytest.raises(BudgetExceeded, match="this request"):
        await till.reserve(entry("led_3"), None, cap=CENT)


async def test_what_costs_nothing_passes_a_limit_of_nothing(made: Made, bank: Bank) -> None:
    till = made({"all": Limit(total=0)})
    await call(till, "led_1", 0, 0)
    with pytest.raises(BudgetExceeded, match=r"limit is 0 USD"):
        await till.reserve(entry("led_2"), 1)
    await till.flush()
    assert (await balance(bank)).settled == 0


async def test_a_cap_bounds_all_calls_of_a_request_together(made: Made) -> None:
    till = made()
    first = await till.reserve(entry("led_1"), 6, cap=10)
    refused = r"leaves 0\.000000004 USD for this call, which could cost up to 0\.000000006 USD"
    with pytest.raises(BudgetExceeded, match=refused):
        await till.reserve(entry("led_2"), 6, cap=10)
    with pytest.raises(BudgetExceeded, match="leaves 0 USD"):  # all of it is kept for others
        await till.reserve(entry("led_2"), 6, cap=-5)
    till.settle(first, entry("led_1", 4))
    assert till.left(REQUEST, 10) == 6
    till.spent_elsewhere(REQUEST, 1)
    till.settle(await till.reserve(entry("led_3"), 5, cap=10), entry("led_3", 5))
    assert till.left(REQUEST, 10) == 0
    await call(till, "led_4", 100, 100)  # another request of the same till


async def test_idle_budget_goes_back_by_itself(made: Made, bank: Bank, monkeypatch) -> None:
    monkeypatch.setattr(till_module, "FLUSH_S", 0.01)
    till = made()
    await till.open()
    held = await till.reserve(entry("led_1"), CENT)
    assert (await balance(bank)).held == 16 * CENT
    monkeypatch.setattr(till_module, "IDLE_S", 0.05)
    await until(lambda: holds(bank, CENT))  # what this call holds stays
    till.settle(held, entry("led_1", 5))
    await until(lambda: holds(bank, 0))
    assert (await balance(bank)).settled == 5
    await call(till, "led_2", CENT, 7)
    await until(lambda: holds(bank, 0))
    assert (await balance(bank)).settled == 12


async def holds(bank: Bank, amount: int) -> bool:
    return (await balance(bank)).held == amount


async def until(true: Callable[[], object]) -> None:
    for _ in range(500):
        if await true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never was")


async def test_a_bill_above_its_reservation_freezes_and_is_heard(made: Made, bank: Bank) -> None:
    heard = []

    class Heard:
        def overrun(self, model: str, nano_usd: int) -> None:
            heard.append((model, nano_usd))

    till = made(LIMITS, alarm=Heard())
    await call(till, "led_1", 100, 130, key="k")
    await till.flush()
    assert heard == [("gpt", 30)]
    for key in ("k", None):
        with pytest.raises(BudgetExceeded, match=r"frozen.*led_1"):
            await till.reserve(entry("led_2", key=key), 100)
    assert await bank.unfreeze("all")
    assert not await bank.unfreeze("all")
    await call(till, "led_3", 100, 1)


async def test_a_lease_that_was_not_renewed_is_not_spent_from(
    made: Made, bank: Bank, clock: SetClock
) -> None:
    till = made()
    await call(till, "led_1", 10, 10)
    clock.by = LEASE_S + 1  # meanwhile it may have been taken for lost
    await call(till, "led_2", 10, 10)
    await till.flush()
    await till.close()
    assert ((await balance(bank)).settled, (await balance(bank)).held) == (20, 0)


async def test_a_clock_that_goes_back_stops_nothing(
    made: Made, bank: Bank, clock: SetClock, monkeypatch
) -> None:
    monkeypatch.setattr(till_module, "FLUSH_S", 0.01)
    monkeypatch.setattr(till_module, "IDLE_S", 0.02)
    till = made({"all": Limit(day=CENT)})
    await till.open()
    await call(till, "led_1", CENT, CENT)
    clock.by = -3 * 86_400.0
    with pytest.raises(BudgetExceeded, match="a day"):  # nor does it give the day anew
        await call(till, "led_2", 1, 1)
    await until(lambda: holds(bank, 0))


async def test_a_store_that_is_away_stops_new_leases_and_loses_nothing(
    made: Made, bank: Bank, monkeypatch
) -> None:
    till = made()
    await call(till, "led_1", 100, 60)

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(bank, "lease", away)
        broken.setattr(bank, "settle", away)
        await call(till, "led_2", 100, 60)  # from what is leased
        with pytest.raises(StoreUnavailable):
            await till.reserve(entry("led_3"), 10_000)
        with pytest.raises(StoreUnavailable):
            await till.flush()
    await till.flush()
    assert (await balance(bank)).settled == 120


def loses_its_answers(bank: Bank, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What this method does is done, and nobody hears of it."""
    real = getattr(bank, name)

    async def deaf(*names: Any, **terms: Any) -> None:
        await real(*names, **terms)
        raise StoreUnavailable("the answer was lost")

    monkeypatch.setattr(bank, name, deaf)


async def test_budget_that_may_have_gone_back_is_not_spent(
    made: Made, bank: Bank, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    till, other = made(LIMITS), made(LIMITS)
    held = [await till.reserve(entry("led_1"), CENT)]
    clock.by = till_module.IDLE_S + 1
    with monkeypatch.context() as broken:
        loses_its_answers(bank, broken, "give_back")
        with pytest.raises(StoreUnavailable):
            await till._return_idle()
    for one in (other, till):
        with pytest.raises(BudgetExceeded):
            while True:
                held.append(await one.reserve(entry(f"led_{len(held) + 1}"), CENT))
    assert len(held) == 100
    till.settle(held[0], entry("led_1", CENT))
    await till.flush()
    await till._end_leases()
    assert ((await balance(bank)).settled, (await balance(bank)).held) == (CENT, 99 * CENT)


async def test_a_lease_that_nobody_heard_of_goes_back(
    made: Made, bank: Bank, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    till = made({"all": Limit(total=20 * CENT)})
    for number in range(3):  # with nothing leased before, and then beyond what is
        with monkeypatch.context() as broken:
            loses_its_answers(bank, broken, "lease")
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    await till.reserve(entry("led_x"), 5 * CENT)
        await call(till, f"led_{number}", 5 * CENT, CENT)
    await till.flush()
    clock.by = till_module.IDLE_S + 1
    await till._return_idle()
    assert ((await balance(bank)).settled, (await balance(bank)).held) == (3 * CENT, 0)


async def test_a_lease_that_nobody_heard_of_and_nobody_needs_goes_back(
    made: Made, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    till = made()
    with monkeypatch.context() as broken:
        loses_its_answers(bank, broken, "lease")
        with pytest.raises(StoreUnavailable):
            await till.reserve(entry("led_1"), CENT)
    assert await holds(bank, 16 * CENT)
    await till._return_idle()
    assert await holds(bank, 0)


async def test_a_lease_that_was_given_up_for_lost_does_not_live_again(
    made: Made, bank: Bank, clock: SetClock
) -> None:
    till = made()
    held = await till.reserve(entry("led_1"), CENT)
    clock.by = LOST_S + LEASE_S + 1
    assert await bank.collect() == 1
    assert await bank.resolve(held.lease, 0)
    await till._renew()
    await till.reserve(entry("led_2"), CENT)
    assert await holds(bank, 16 * CENT), "the second call is paid from a lease of its own"


async def test_a_call_that_is_cancelled_while_it_waits_for_budget_leaves_none_behind(
    made: Made, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    till, given, lease = made(), asyncio.Event(), bank.lease

    async def later(*names: Any, **terms: Any) -> Lease | Refusal:
        await given.wait()
        return await lease(*names, **terms)

    monkeypatch.setattr(bank, "lease", later)
    for _ in range(3):
        waiting = asyncio.create_task(till.reserve(entry("led_1"), CENT))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
    given.set()
    await call(till, "led_2", CENT, 5)
    await till.close()
    assert ((await balance(bank)).settled, (await balance(bank)).held) == (5, 0)


async def test_a_full_disk_stops_the_call_and_holds_nothing(
    made: Made, bank: Bank, monkeypatch
) -> None:
    till = made()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            await till.reserve(entry("led_1"), CENT, cap=CENT)
    await till.close()
    assert ((await balance(bank)).settled, (await balance(bank)).held) == (0, 0)


async def test_what_a_dead_neighbour_left_is_booked_and_the_rest_of_its_lease_returned(
    made: Made, bank: Bank
) -> None:
    dead, alive = made(), made()
    await call(dead, "led_ended", 100, 60)
    await dead.reserve(entry("led_open"), 100)
    os.close(dead._journal._file)  # as the kernel does when a process dies
    await alive.open()
    assert ((await balance(bank)).settled, (await balance(bank)).held) == (60, 100)
    assert await bank.resolve("led_open", 0)
    assert (await balance(bank)).held == 0
    dead._journal._file = os.open(os.devnull, os.O_WRONLY)


async def test_a_journal_that_cannot_be_booked_keeps_no_other_back(
    made: Made, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted((made(), made()), key=lambda till: till._holder)
    for till in (first, second):
        await call(till, f"led_{till._holder}", 100, 60)
        os.close(till._journal._file)
    recover = bank.recover

    async def picky(holder: str, left: Left, *, whole: bool) -> None:
        if holder == first._holder:
            raise StoreUnavailable("it cannot be booked")
        await recover(holder, left, whole=whole)

    monkeypatch.setattr(bank, "recover", picky)
    with pytest.raises(StoreUnavailable, match="cannot be booked"):
        await made()._recover()
    assert (await balance(bank)).settled == 60
    assert (first._journal.path.exists(), second._journal.path.exists()) == (True, False)
    for till in (first, second):
        till._journal._file = os.open(os.devnull, os.O_WRONLY)


async def test_leases_of_the_dead_are_looked_for_though_a_journal_cannot_be_booked(
    made: Made, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    till, collected = made(), asyncio.Event()

    async def fails() -> None:
        raise StoreUnavailable("it cannot be booked")

    async def collect() -> None:
        collected.set()

    monkeypatch.setattr(till, "_recover", fails)
    monkeypatch.setattr(bank, "collect", collect)
    monkeypatch.setattr(till_module, "FLUSH_S", 0.01)
    monkeypatch.setattr(till_module, "RENEW_S", 0.0)
    await till.open()
    await asyncio.wait_for(collected.wait(), 5)


async def test_a_dead_process_may_leave_more_calls_than_a_statement_takes_names(
    bank: Bank, database: Database
) -> None:
    await bank.collect()
    writer: sqlite3.Connection = database._runner._writer._connection  # type: ignore[attr-defined]
    writer.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 1_100)
    ended = [(entry(f"led_{number}", 1), 1) for number in range(1_200)]
    still_open = [(entry(f"open_{number}"), 0) for number in range(1_200)]
    await bank.recover("dead", Left({"": ended}, {"": still_open}), whole=True)
    assert (await balance(bank)).settled == 1_200


async def test_a_journal_from_before_the_machine_went_down_returns_nothing(
    made: Made, bank: Bank, monkeypatch
) -> None:
    monkeypatch.setattr("serve.money.journal._boot", lambda: "before")
    dead = made()
    await call(dead, "led_ended", 100, 60)
    os.close(dead._journal._file)
    monkeypatch.setattr("serve.money.journal._boot", lambda: "after")
    await made().open()
    # Its last lines may be lost, so what they would say stays held.
    assert ((await balance(bank)).settled, (await balance(bank)).held) == (60, 1540)
    dead._journal._file = os.open(os.devnull, os.O_WRONLY)
