"""Replays of small traces: bills, start-up, spot, spill, and each policy by name."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from cluster.errors import PolicyError
from cluster.profile import Profile
from cluster.simulation import oracle
from cluster.simulation.contenders import Static, recovered, run_policy
from cluster.simulation.oracle import Fluid, best_schedule
from cluster.simulation.simulator import (
    GaveUp,
    Setting,
    View,
    Wanted,
    initial_replicas,
    make_setting,
    percentile,
    simulate,
)
from cluster.simulation.trace import Trace, make_trace

# Ray's own use of pydantic warns where it is imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def steady(rate: float, seconds: int, start: float = 0.0) -> list[tuple[float, int, int]]:
    return [(start + i / rate, 500, 50) for i in range(int(rate * seconds))]


@pytest.fixture
def trace() -> Trace:
    return make_trace(steady(2, 300) + steady(5, 300, 300) + steady(2, 300, 600))


@pytest.fixture
def setting(trace: Trace, profile: Profile) -> Setting:
    return make_setting(trace, profile)


def test_a_static_fleet_is_billed_by_the_second(setting: Setting) -> None:
    result = simulate(setting, Static(6))
    initial = initial_replicas(setting.trace, setting.profile)
    assert initial < 6
    seconds = result.microdollars / 800_000 * 3600
    assert seconds == pytest.approx(6 * setting.trace.duration_s, rel=0.02)
    assert result.replica_hours == pytest.approx(seconds / 3600, abs=1e-3)
    assert result.ttft_attainment > 0.99
    assert result.as_object() == {
        "policy": "static:6",
        "dollars": result.microdollars / 1e6,
        "ttft_attainment": result.ttft_attainment,
        "ttft_p50_s": result.ttft_p50_s,
        "ttft_p99_s": result.ttft_p99_s,
        "replica_hours": result.replica_hours,
        "requests": 2700,
        "shed": 0,
        "spilled": 0,
    }


def test_an_order_serves_after_the_startup_time(setting: Setting) -> None:
    class Grow:
        name = "grow"
        seen: dict[float, int] = {}  # noqa: RUF012

        def decide(self, view: View) -> Wanted:
            self.seen[view.now_s] = view.replicas
            return Wanted(9)

    simulate(setting, Grow())
    assert Grow.seen[59.0] < 9
    assert Grow.seen[60.0] == 9


@pytest.mark.parametrize("name", ["ours", "serve-default", "oracle", "static:4"])
def test_every_policy_answers_every_request(setting: Setting, name: str) -> None:
    result = run_policy(name, setting)
    assert result.policy == name
    assert result.requests == 2700
    assert result.shed == result.spilled == 0
    assert result.microdollars > 0


def test_the_oracle_reaches_the_attainment_and_is_cheapest(setting: Setting) -> None:
    oracle, ours = run_policy("oracle", setting), run_policy("ours", setting)
    assert oracle.ttft_attainment >= 0.99
    assert ours.ttft_attainment >= 0.99
    assert oracle.microdollars < ours.microdollars


def test_a_replay_is_deterministic(setting: Setting) -> None:
    assert run_policy("ours", setting) == run_policy("ours", setting)
    spot = replace(setting, spot=True, seed=3)
    assert run_policy("ours", spot) == run_policy("ours", spot)


def test_spot_is_cheaper_and_loses_no_request(setting: Setting) -> None:
    firm, spot = run_policy("ours", setting), run_policy("ours", replace(setting, spot=True))
    assert spot.microdollars < firm.microdollars
    assert spot.shed == 0


def test_spill_takes_what_would_be_late(setting: Setting) -> None:
    tight = replace(setting, spill=True)
    result = simulate(tight, Static(2))
    assert result.spilled > 0
    assert result.ttft_attainment > simulate(setting, Static(2)).ttft_attainment


def test_a_long_prompt_that_finds_a_place_is_read_here(profile: Profile) -> None:
    long = make_setting(make_trace([(0.0, 6000, 5), (10.0, 6000, 5)]), profile, spill=True)
    result = simulate(long, Static(1))
    assert result.spilled == 0
    assert result.ttft_attainment == 1.0


def test_who_is_late_waits_no_longer_than_for_what_was_ordered_then(profile: Profile) -> None:
    """A crowd at once, and after it as much as one replica can do: there is never room to spare
    for those who are late."""
    each_s = profile.rates().work_s(500, 50)
    crowd = [(0.0, 500, 50)] * 100
    stream = [(i * each_s, 500, 50) for i in range(int(300 / each_s))]
    result = simulate(make_setting(make_trace([*crowd, *stream]), profile), Static(1))
    assert profile.node.startup_s < result.ttft_p99_s < 1.5 * profile.node.startup_s


def test_what_is_still_being_written_at_the_end_was_not_spilled(profile: Profile) -> None:
    endless = make_setting(make_trace([(0.0, 500, 5_000_000)]), profile, spill=True)
    result = simulate(endless, Static(1))
    assert (result.spilled, result.shed) == (0, 0)


def test_overload_without_spill_is_shed_and_counted_late(setting: Setting) -> None:
    result = simulate(replace(setting, shed_after_s=10.0), Static(1))
    assert result.shed > 0
    assert result.ttft_attainment < 0.9


def test_a_gap_of_hours_goes_to_zero_and_comes_back(profile: Profile) -> None:
    quiet = make_setting(make_trace(steady(2, 120) + steady(2, 120, 8_000)), profile)
    result = run_policy("ours", quiet)
    assert 0 in {moment.replicas for moment in result.timeline}
    assert result.requests == 480
    assert result.ttft_p50_s > 0


def test_a_gap_of_days_is_not_lived_second_by_second_and_ends_with_the_next_request(
    profile: Profile,
) -> None:
    class Counting:
        name = "counting"

        def __init__(self, rests_s: float) -> None:
            self.rests_s = rests_s
            self.asked: list[float] = []

        def decide(self, view: View) -> Wanted:
            self.asked.append(view.now_s)
            return Wanted(0 if self.rests_s < view.now_s < 200_000 else 1)

    asked_twice = make_setting(make_trace([(0.0, 500, 50), (200_000.25, 500, 50)]), profile)
    always = Counting(400_000)
    result = simulate(asked_twice, always)
    assert len(always.asked) < 3_600 + 400
    assert always.asked[:3_600] == [float(second) for second in range(3_600)]
    assert 200_000.0 in always.asked
    assert result.replica_hours == pytest.approx(200_000 / 3600, rel=1e-3)
    # Nor is a queue that nobody serves.
    never = Counting(0)
    assert simulate(asked_twice, never).ttft_p50_s < 200
    assert len(never.asked) < 3 * (3_600 + 400)
    # A policy that rests late in a gap is asked in time for that.
    rested = simulate(asked_twice, Counting(100_000))
    assert rested.replica_hours == pytest.approx(100_000 / 3600, rel=2e-2)


def test_a_busy_or_changing_fleet_is_looked_at_every_second(setting: Setting) -> None:
    class Counting:
        name = "counting"
        asked = 0

        def decide(self, view: View) -> Wanted:
            self.asked += 1
            return Wanted(6)

    policy = Counting()
    simulate(setting, policy)
    assert policy.asked >= 900


def test_an_oracle_that_no_size_of_fleet_helps_gives_up_soon(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[float, float]] = []

    def never(search: oracle._Search, waits: float, margin: float) -> bool:
        tried.append((waits, margin))
        return False

    monkeypatch.setattr(oracle._Search, "tried", never)
    oracle._Search(setting, None).bisected((1.5, 3.0))
    assert [waits for waits, _ in tried] == [1.5] * 4


def test_one_endless_request_asks_for_no_thousands_of_replicas(profile: Profile) -> None:
    rows = [(float(i), 500, 50) for i in range(100)]
    huge = make_setting(make_trace([*rows, (100.0, 10, 5_000_000)]), profile)
    assert initial_replicas(huge.trace, profile) < 10
    levels = best_schedule(
        oracle.fluid_of(huge, 5.0),
        start=1,
        startup_s=60.0,
        drain_s=10.0,
        wait_s=2.0,
        late_price_s=1e6,
        margin=1.0,
    )
    assert max(levels) <= 101


def test_one_request_is_a_trace(profile: Profile) -> None:
    assert run_policy("ours", make_setting(make_trace([(0, 10, 5)]), profile)).requests == 1


def test_a_run_can_be_given_up(setting: Setting) -> None:
    with pytest.raises(GaveUp):
        simulate(setting, Static(3), give_up=lambda microdollars, late: microdollars > 1)


@pytest.mark.parametrize("name", ["best", "static:0", "static:x", "no.such.module:Policy"])
def test_an_unknown_policy_is_refused(setting: Setting, name: str) -> None:
    with pytest.raises(PolicyError):
        run_policy(name, setting)


def test_a_users_serve_policy_class(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    import sys
    import types

    class Three:
        def __call__(self, ctx: object) -> tuple[int, dict[str, object]]:
            return 3, {}

    module = types.ModuleType("users_policy")
    module.Three = Three  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "users_policy", module)
    result = run_policy("users_policy:Three", setting)
    assert {moment.wanted for moment in result.timeline} == {3}


def test_the_schedule_fills_short_gaps_and_leaves_long_ones() -> None:
    import numpy as np

    need = np.array([4.0] * 20 + [1.0] * 4 + [4.0] * 20 + [1.0] * 60 + [4.0] * 20)
    levels = best_schedule(
        Fluid(need, np.full(len(need), 10.0), 10.0),
        start=4,
        startup_s=100.0,
        drain_s=10.0,
        wait_s=2.0,
        late_price_s=50.0,
        margin=1.0,
    )
    assert set(levels[20:24]) == {4}
    assert set(levels[46:100]) == {1}
    assert levels[104:110] == (4,) * 6


def test_those_who_serve_at_the_start_are_not_given_up_for_a_margin(profile: Profile) -> None:
    import numpy as np

    need = np.array([8.0] * 12 + [4.0] * 40)
    levels = best_schedule(
        Fluid(need, np.full(len(need), 10.0), 10.0),
        start=10,
        startup_s=120.0,
        drain_s=10.0,
        wait_s=2.0,
        late_price_s=50.0,
        margin=3.0,
    )
    assert levels[:12] == (10,) * 12


def test_what_a_schedule_costs_at_least_is_known_without_a_replay(setting: Setting) -> None:
    schedule = oracle.Scheduled((6, 4, 4, 7, 2, 5) * 30, 5.0, 60.0)
    least = schedule.least_paid_s()
    paid = simulate(setting, schedule).replica_hours * 3600
    assert 0.9 * paid < least <= paid


def test_an_oracle_that_cannot_reach_it_comes_as_near_as_it_can(profile: Profile) -> None:
    """Every thirtieth prompt takes longer than the target by itself."""
    chance, at, rows = random.Random(5), 0.0, []
    for index in range(1000):
        at += chance.expovariate(2.0 + 6.0 * (index // 200 % 2))
        rows.append((at, 9000 if index % 30 == 0 else 500, 20))
    endless = make_setting(make_trace(rows), profile)
    found, most = run_policy("oracle", endless), simulate(endless, Static(60))
    assert most.ttft_attainment < profile.targets.attainment
    assert found.ttft_attainment > most.ttft_attainment - 0.01


def test_percentiles_and_recovery(setting: Setting) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert percentile([], 0.99) == 0.0
    base = simulate(setting, Static(3))
    cheap, dear = replace(base, microdollars=10), replace(base, microdollars=20)
    assert recovered(dear, replace(base, microdollars=13), cheap) == pytest.approx(0.7)
    assert recovered(cheap, cheap, dear) is None


@pytest.mark.parametrize("rate", [0.03])
def test_the_oracle_reaches_the_attainment_where_a_fleet_mostly_idles(
    profile: Profile, rate: float
) -> None:
    chance = random.Random(3)
    at, rows = 0.0, []
    for _ in range(15):
        at += chance.expovariate(rate)
        rows.append((at, 800, 150))
    quiet = make_setting(make_trace(rows), profile)
    found = run_policy("oracle", quiet)
    assert found.ttft_attainment >= profile.targets.attainment
    for count in (1, 2):
        static = run_policy(f"static:{count}", quiet)
        if static.ttft_attainment >= profile.targets.attainment:
            assert found.microdollars <= static.microdollars * 1.02


def test_a_number_that_is_none_is_refused(setting: Setting) -> None:
    with pytest.raises(PolicyError, match="whole number"):
        run_policy("static:\u00b2", setting)
