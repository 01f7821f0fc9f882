"""The ledger in real databases: limits hold, crashes free nothing, repetition changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
import stores

from models.fake import FakeClock
from models.messages import Usage
from serve.money.bank import LOST_S, Bank, Lease
from serve.money.journal import Left
from serve.money.ledger import Entry, Limit, Refusal
from serve.store import schema
from serve.store.database import Database

CENT = 10_000_000
ALL = ("all",)


@pytest.fixture
async def database(store: str) -> AsyncIterator[Database]:
    async with stores.empty(store) as made:
        yield made


async def test_migrations_make_what_the_schema_says(database: Database) -> None:
    assert await stores.differences(database) == []


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def bank(database: Database, clock: FakeClock) -> Bank:
    return Bank(database, clock)


def call(name: str, cost: int) -> Entry:
    return Entry(
        *(name, 1.5, "req_1", "default", "flagship", "answer", "gpt"),
        usage=Usage(3, 4),
        nano_usd=cost,
    )


async def leased(bank: Bank, least: int, limit: int | None = None) -> Lease:
    made = await bank.lease("me", ALL, {"all": Limit(total=limit)}, least=least, wanted=least)
    assert isinstance(made, Lease)
    return made


async def sums(bank: Bank) -> tuple[int, int]:
    """Settled and held."""
    balance = (await bank.balances(ALL))["all"]
    return balance.settled, balance.held


async def unknown_ids(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(sa.select(schema.unknowns.c.id))).scalars())


async def test_two_hundred_at_once_never_pass_a_limit(bank: Bank) -> None:
    async def one(number: int) -> bool:
        limits = {"all": Limit(total=100 * CENT)}
        lease = await bank.lease("me", ALL, limits, least=CENT, wanted=16 * CENT)
        if isinstance(lease, Refusal):
            assert "limit is 1 USD in total" in lease.reason
            return False
        assert sum(await sums(bank)) <= 100 * CENT
        await bank.give_back(lease.id, lease.amount - CENT)
        await bank.settle(lease.id, [(call(f"led_{number}", CENT - 1), CENT)])
        await bank.give_back(lease.id, 1)
        return True

    served = sum(await asyncio.gather(*(one(number) for number in range(200))))
    assert 0 < served <= 100
    assert await sums(bank) == (served * (CENT - 1), 0)


async def test_every_account_of_a_call_is_charged_and_only_leased_ones_hold(bank: Bank) -> None:
    lease = await leased(bank, 100)
    await bank.settle(lease.id, [(call("led_1", 60), 100)])
    await bank.give_back(lease.id, 40)
    names = ("all", "project:default", "tier:flagship", "part:work")
    found = await bank.balances(names)
    assert {name: (found[name].settled, found[name].held) for name in names} == dict.fromkeys(
        names, (60, 0)
    )


async def test_a_settlement_that_is_repeated_is_settled_once(bank: Bank) -> None:
    lease = await leased(bank, 100)
    for _ in range(2):
        await bank.settle(lease.id, [(call("led_1", 60), 100)])
    assert await sums(bank) == (60, 40)


async def test_a_lease_grows_where_it_lives_and_is_new_where_not(bank: Bank) -> None:
    first = await leased(bank, 10)
    more = await bank.lease("me", ALL, {}, least=5, wanted=5, onto=first.id)
    other = await bank.lease("you", ALL, {}, least=5, wanted=5, onto=first.id)
    assert more == Lease(first.id, 5)
    assert isinstance(other, Lease)
    assert other.id != first.id
    assert await sums(bank) == (0, 20)


async def test_a_crash_frees_no_money(bank: Bank, database: Database) -> None:
    lease = await leased(bank, 1000)
    await bank.settle(lease.id, [(call("led_told", 50), 100)])
    left = Left(
        ended={lease.id: [(call("led_told", 50), 100), (call("led_ended", 70), 100)]},
        open={lease.id: [(call("led_open", 0), 200)]},
    )
    for _ in range(2):  # its recovery may itself be cut off after the store knew
        await bank.recover("me", left, whole=True)
        assert await sums(bank) == (120, 200)
    assert await unknown_ids(database) == ["led_open"]
    assert await bank.resolve("led_open", 30)
    assert await sums(bank) == (150, 0)
    assert not await bank.resolve("led_open", 30)


async def test_a_lost_machine_leaves_its_whole_lease_held(
    bank: Bank, database: Database, clock: FakeClock
) -> None:
    lease = await leased(bank, 1000)
    await clock.advance(LOST_S)
    assert await bank.collect() == 0
    await clock.advance(60)
    assert await bank.collect() == 1
    assert await sums(bank) == (0, 1000)
    assert await unknown_ids(database) == [lease.id]
    # It was not lost after all: what it settles comes out of what was held for it.
    await bank.settle(lease.id, [(call("led_late", 60), 100)])
    assert await sums(bank) == (60, 940)
    await bank.resolve(lease.id, 0)
    assert await sums(bank) == (60, 0)


async def test_a_bill_above_its_reservation_freezes_the_account(bank: Bank) -> None:
    lease = await leased(bank, 100)
    await bank.settle(lease.id, [(call("led_1", 130), 100)])
    assert await sums(bank) == (130, 0)
    refusal = await bank.lease("me", ALL, {}, least=1, wanted=1)
    assert isinstance(refusal, Refusal)
    assert "led_1" in refusal.reason


async def test_a_renewed_lease_is_not_collected(bank: Bank, clock: FakeClock) -> None:
    await leased(bank, 10)
    await clock.advance(LOST_S)
    await bank.renew("me")
    await clock.advance(60)
    assert await bank.collect() == 0


async def test_a_machine_that_comes_back_late_frees_no_money(
    bank: Bank, database: Database, clock: FakeClock
) -> None:
    lease = await leased(bank, 1000)
    await clock.advance(LOST_S + 60)
    await bank.collect()
    left = Left(
        ended={lease.id: [(call("led_ended", 70), 100)]},
        open={lease.id: [(call("led_open", 0), 200)]},
    )
    await bank.recover("me", left, whole=True)
    assert await sums(bank) == (70, 200)
    assert await unknown_ids(database) == ["led_open"]
