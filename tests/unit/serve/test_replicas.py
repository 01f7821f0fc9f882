"""Hosted models: charged plus idle is what their replicas cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import stores
from hypothesis import given
from hypothesis import strategies as st

from models.catalog import Catalog
from models.fake import FakeClock
from models.messages import Usage
from models.scaling import FIRST
from serve.money import usage
from serve.money.bank import Bank
from serve.money.ledger import Entry
from serve.money.replicas import GAP_S, Counted, ReplicaHours, count, spent_today
from serve.store.database import Database

USD = 10**9
HOUR_US = 3_600_000_000


def test_an_hour_of_two_replicas_costs_twice_the_price() -> None:
    counted = Counted(0)
    for minute in range(1, 61):
        counted = count(counted, minute * 60_000_000, 2 * 3 * USD, charged_ever=USD)
    assert (counted.hours, counted.charged, counted.idle) == (6 * USD, USD, 5 * USD)


@given(
    st.lists(
        st.tuples(
            st.integers(-10_000_000, 400_000_000),
            st.integers(0, 9),
            st.integers(0, 10 * USD),
            st.integers(0, USD),
        )
    )
)
def test_charged_plus_idle_is_always_what_replicas_cost(
    looks: list[tuple[int, int, int, int]],
) -> None:
    now, ever, counted, hours = 10**15, 0, count(None, 10**15, 5 * USD, 0), 0
    for passed, replicas, price, charge in looks:
        last = counted.at_us
        now, ever = now + passed, ever + charge
        counted = count(counted, now, replicas * price, ever)
        if 0 <= now - last <= GAP_S * 1e6:
            hours += replicas * (now - last) * price // HOUR_US
        assert counted.charged + counted.idle == counted.hours == hours
        assert counted.charged <= ever


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with stores.empty(f"sqlite:///{tmp_path}/fusion.db") as made:
        yield made


DAY_US = 24 * HOUR_US


def test_a_day_begins_with_nothing_spent() -> None:
    midnight = 20_000 * DAY_US
    counted = Counted(midnight - 120_000_000, hours=7 * USD, day=19_999, before=5 * USD)
    counted = count(counted, midnight - 60_000_000, 60 * USD, 0)
    assert counted.today(midnight - 1) == 3 * USD
    assert counted.today(midnight + 1) == 0
    # What ran across midnight counts to the new day.
    counted = count(counted, midnight + 60_000_000, 60 * USD, 0)
    assert counted.today(midnight + 60_000_000) == 2 * USD
    assert counted.hours == 10 * USD


async def test_what_replicas_cost_today_is_known_to_every_gateway(database: Database) -> None:
    node = {"usd_per_hour": 3.6, "startup_s": 30}
    decode = {"step_base_s": 0.04, "step_per_sequence_s": 0.04, "max_batch": 4}
    scaling = {"node": node, "replica": {"prefill_tokens_per_s": 1000, "decode": decode}}
    scaled = {"engine": "fake", "scaling": scaling}
    catalog = Catalog.model_validate(
        {"models": {"a": scaled, "b": scaled, "c": scaled}, "roles": {"judge": "a"}}
    )
    clock = FakeClock(1_795_593_600.0)

    async def running(_: Catalog) -> dict[str, dict[str, int]]:
        return {"a": {FIRST: 2}, "b": {FIRST: 1}, "c": {FIRST: 1}}

    await ReplicaHours(database, lambda: catalog, running, clock).count()
    await clock.advance(200)
    await ReplicaHours(database, lambda: catalog, running, clock).count()
    assert await spent_today(database, clock, ["a", "b"]) == 3 * USD * 2 // 10
    await clock.advance(86_400)
    assert await spent_today(database, clock, ["a", "b"]) == 0


async def test_calls_and_idle_time_of_a_model_add_up_in_the_store(database: Database) -> None:
    catalog = Catalog.model_validate(
        {
            "models": {
                "small": {
                    "engine": "fake",
                    "usd_per_hour": 3.6,
                    "price": {"input": 1, "output": 1},
                },
                "free": {"engine": "fake"},
            },
            "roles": {"judge": "small"},
        }
    )
    clock = FakeClock(1_795_593_600.0)

    async def running(_: Catalog) -> dict[str, dict[str, int]]:
        return {"small": {FIRST: 2}, "free": {FIRST: 1}}

    hours = ReplicaHours(database, lambda: catalog, running, clock)
    bank = Bank(database, clock)
    await hours.count()
    for number in range(3):
        await clock.advance(100)
        who = (f"led_{number}", clock.now(), "req", "default", "workforce", "answer", "small")
        await bank.settle("", [(Entry(*who, usage=Usage(1, 1), nano_usd=USD // 100), USD)])
        await hours.count()
        await hours.count()  # another gateway, at the same moment
    answer = await usage.answer(database, usage.Question(), {}, None)
    # 300 seconds of two replicas at 3.6 dollars an hour are 0.6 dollars.
    assert [one for one in answer["accounts"] if "hours_usd" in one] == [
        {
            "account": "idle:small",
            "settled_usd": "0.57",
            "held_usd": "0",
            "frozen": None,
            "hours_usd": "0.6",
            "charged_usd": "0.03",
        }
    ]
