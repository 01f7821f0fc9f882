"""The scaling decision, as examples of use and as properties."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.cost import ModelSpec, NodeType, RemotePrice, ServiceRates, SpotMarket, offers
from cluster.errors import BudgetError
from cluster.scaling.budget import Budget, decide_all
from cluster.scaling.decision import (
    Decision,
    ModelScaling,
    ScalingState,
    ScalingTargets,
    Seen,
    decide,
    replicas_for_prompts,
)
from cluster.scaling.forecast import Forecast
from cluster.scaling.hindsight import MARGINS, Hindsight, margin_for, meet
from cluster.scaling.placement import (
    OfferHealth,
    after_orders,
    after_success,
    keep_until_replaced,
    place,
)
from cluster.simulation.simulator import may_be_late

RATES = ServiceRates(4000, 0.045, 0.0009, 32)
L4 = NodeType("l4", Decimal("0.80"), 120, spot=SpotMarket(Decimal("0.30"), 7200, 30))
A10 = NodeType("a10", Decimal("1.20"), 90)
SPEC = ModelSpec("m", {"l4": RATES, "a10": RATES})
MODEL = ModelScaling("m", offers(SPEC, [L4]), ScalingTargets(2.0, 0.99))


def replay(
    model: ModelScaling, rates: list[float], *, queued: int = 0, seconds: int = 10
) -> list[Decision]:
    """Decisions every `seconds` at those request rates, orders obeyed at once."""
    decisions: list[Decision] = []
    arrived, replicas, state = 0.0, 1, ScalingState()
    for index, rate in enumerate(rates):
        arrived += rate * seconds
        seen = Seen(
            now_s=index * seconds,
            replicas=replicas,
            queued_requests=queued,
            queued_prompt_tokens=queued * 1000,
            running_requests=rate,
            arrived=arrived,
            arrived_prompt_tokens=arrived * 1000,
            answered=arrived,
            generated_tokens=arrived * 200,
        )
        decision = decide(model, seen, state)
        decisions.append(decision)
        state, replicas = decision.state, decision.replicas
    return decisions


def test_replicas_follow_the_work_not_the_count_of_requests() -> None:
    last = replay(MODEL, [20.0] * 200)[-1]
    load = 20 * RATES.work_s(1000, 200)
    assert last.present_load == pytest.approx(load, rel=0.05)
    assert load <= last.replicas <= load * 1.3
    assert "load" in last.why
    assert "on l4/on-demand" in last.why


def test_a_rising_load_is_looked_ahead_of() -> None:
    rising = replay(MODEL, [5 + 0.1 * i for i in range(300)])[-1]
    assert rising.expected_load > rising.present_load


def test_a_backlog_asks_for_more() -> None:
    calm = replay(MODEL, [20.0] * 100)[-1]
    late = replay(MODEL, [20.0] * 100, queued=5000)[-1]
    assert late.replicas > calm.replicas
    assert late.backlog_s > 0
    assert late.why != calm.why


def test_a_backlog_is_worked_off_within_a_start_up_time() -> None:
    calm = replay(MODEL, [20.0] * 100)[-1]
    late = replay(MODEL, [20.0] * 100, queued=5000)[-1]
    work_s = RATES.work_s(5000 * 1000, 5000 * 200)
    # As much again do those in the next start-up time who serve already.
    more = work_s / 120 / 2
    assert late.replicas == pytest.approx(calm.expected_load + more, rel=0.1)


def test_a_short_dip_changes_nothing() -> None:
    decisions = replay(MODEL, [20.0] * 120 + [0.5] * 3)
    assert decisions[-1].replicas == decisions[119].replicas
    assert "going down slowly" in decisions[-1].why


def test_a_fleet_is_held_to_the_fraction_and_not_at_what_was_rounded_up() -> None:
    decisions = replay(MODEL, [6.0] * 400 + [5.6] * 30)
    assert decisions[399].replicas == 5
    assert 4 < decisions[399].state.held < 4.5
    assert decisions[-1].replicas == 4


def test_to_zero_when_idling_has_cost_more_than_a_cold_start_and_back() -> None:
    decisions = replay(replace(MODEL, late_usd=0.0), [1.0] * 60 + [0.0] * 400)
    counts = [decision.replicas for decision in decisions]
    assert counts[70] >= 1
    assert counts[-1] == 0
    seen = decisions[-1].state.seen
    assert seen is not None
    woken = decide(
        MODEL, replace(seen, now_s=seen.now_s + 1, queued_requests=1), decisions[-1].state
    )
    assert woken.replicas >= 1
    assert woken.backlog_s == float("inf")


def test_kept_warm_where_a_cold_start_costs_more() -> None:
    dear = replay(replace(MODEL, late_usd=10.0), [1.0] * 60 + [0.0] * 400)[-1]
    assert dear.replicas == 1
    assert "kept warm" in dear.why


def test_who_is_asked_now_and_then_stays_warm_while_too_many_were_late_and_rests_at_night() -> None:
    state = replay(MODEL, [1.0] * 6)[-1].state
    seen = state.seen
    assert seen is not None
    cold_s = 120 + 0.01 / 0.8 * 3600  # what idling may cost, at one late answer

    def after(idle_s: float, late_share: float) -> int:
        later = replace(seen, now_s=seen.now_s + idle_s, running_requests=0)
        return decide(MODEL, later, replace(state, late_share=late_share, busy_load=0.0)).replicas

    assert after(2 * cold_s, 0.0) == 0
    assert after(2 * cold_s, 0.02) >= 1
    assert after(19 * cold_s, 0.02) >= 1
    assert after(21 * cold_s, 0.02) == 0


def test_spill_lowers_the_margin_to_what_a_replica_earns() -> None:
    remote = RemotePrice(Decimal("0.30"), Decimal("0.30"), 0.6)
    assert replay(replace(MODEL, remote=remote), [20.0] * 50)[-1].margin < 1
    dear = RemotePrice(Decimal(30), Decimal(30), 0.6)
    assert replay(replace(MODEL, remote=dear), [20.0] * 50)[-1].margin > 1


def test_bounds() -> None:
    bounded = replace(MODEL, min_replicas=2, max_replicas=3)
    assert replay(bounded, [50.0] * 50)[-1].replicas == 3
    assert replay(bounded, [0.0] * 500)[-1].replicas == 2


@pytest.mark.parametrize(
    "wrong",
    [{"offers": ()}, {"min_replicas": 3, "max_replicas": 2}, {"on_demand_floor": 2.0}],
)
def test_settings_are_checked_where_they_are_made(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="m"):
        replace(MODEL, **wrong)  # type: ignore[arg-type]


def test_small_fleets_get_replicas_for_prompts() -> None:
    assert replicas_for_prompts(0.0, 0.3, 1.7, 0.01, 0) == 0
    assert replicas_for_prompts(0.8, 0.5, 1.0, 0.01, 1) > 1
    assert replicas_for_prompts(30.0, 0.3, 1.7, 0.01, 60) == 60


@settings(max_examples=30)
@given(st.lists(st.floats(0, 200), min_size=1, max_size=60), st.integers(0, 1000))
def test_any_load_gives_a_whole_number_within_bounds(rates: list[float], queued: int) -> None:
    for decision in replay(replace(MODEL, max_replicas=50), rates, queued=queued):
        assert 0 <= decision.replicas <= 50
        assert sum(decision.placement.replicas.values()) == decision.replicas
        assert decision.replicas >= 1 or queued == 0


@settings(max_examples=20)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=30))
def test_the_same_values_give_the_same_decision(rates: list[float]) -> None:
    assert replay(MODEL, rates) == replay(MODEL, rates)


def test_counters_that_restart_are_no_negative_load() -> None:
    state = decide(MODEL, Seen(0, 1, arrived=100, arrived_prompt_tokens=1e5), ScalingState()).state
    assert decide(MODEL, Seen(10, 1, arrived=1), state).present_load >= 0


# -- placement ---------------------------------------------------------------------------------


def test_spot_carries_all_but_the_floor() -> None:
    placed = place(10, offers(SPEC, [L4], spot=True), {}, 0.0, on_demand_floor=0.2)
    assert placed.replicas == {"l4/on-demand": 2, "l4/spot": 8}
    assert placed.usd_per_hour == pytest.approx(2 * 0.8 + 8 * 0.3)


def test_a_node_type_that_never_comes_up_is_left_alone_and_the_next_is_used() -> None:
    both = offers(SPEC, [L4, A10])
    health = after_orders({}, both, {"l4/on-demand": 0.0}, 361.0)
    assert health["l4/on-demand"] == OfferHealth(1, 481.0)
    placed = place(3, both, health, 400.0)
    assert placed.replicas == {"a10/on-demand": 3}
    assert "left alone for now: l4/on-demand" in placed.why
    again = after_orders(health, both, {"l4/on-demand": 0.0}, 500.0)
    assert again["l4/on-demand"].failures == 2
    assert again["l4/on-demand"].retry_at_s == 740.0
    assert place(3, both, after_success(again, "l4/on-demand"), 500.0).replicas == {
        "l4/on-demand": 3
    }


def test_where_nothing_comes_up_the_next_to_be_tried_is_ordered() -> None:
    both = offers(SPEC, [L4, A10])
    health = {"l4/on-demand": OfferHealth(3, 900.0), "a10/on-demand": OfferHealth(1, 500.0)}
    assert place(1, both, health, 100.0).replicas == {"a10/on-demand": 1}


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 20)),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 20)),
)
def test_moving_never_makes_the_fleet_smaller(
    wanted: dict[str, int], serving: dict[str, int]
) -> None:
    kept = keep_until_replaced(wanted, serving)
    still = sum(min(serving.get(key, 0), kept.get(key, 0)) for key in "abc")
    assert still >= min(sum(serving.values()), sum(wanted.values()))
    assert all(kept[key] >= count for key, count in wanted.items())


# -- budget ------------------------------------------------------------------------------------


def many(count: int) -> tuple[list[ModelScaling], dict[str, Seen]]:
    models = [replace(MODEL, name=f"m{i}", min_replicas=4) for i in range(count)]
    return models, {model.name: Seen(0.0, 0) for model in models}


def test_one_budget_over_all_models_a_first_replica_before_a_second() -> None:
    models, seen = many(3)
    decisions = decide_all(models, seen, {}, Budget(usd_per_hour=Decimal("4.00")))
    assert sorted(d.replicas for d in decisions.values()) == [1, 2, 2]
    assert all("budget" in d.why for d in decisions.values())
    assert sum(d.placement.usd_per_hour for d in decisions.values()) <= 4.0


def test_priority_gets_more() -> None:
    models, seen = many(2)
    models[1] = replace(models[1], priority=3.0)
    decisions = decide_all(models, seen, {}, Budget(usd_per_hour=Decimal("3.20")))
    assert decisions["m1"].replicas > decisions["m0"].replicas


def test_without_need_the_budget_is_not_mentioned() -> None:
    models, seen = many(2)
    assert decide_all(models, seen, {}, Budget(Decimal(100)))["m0"].replicas == 4


def test_a_day_is_never_overspent() -> None:
    budget = Budget(usd_per_day=Decimal(10))
    assert budget.allowed_usd_per_hour(Decimal(9), 50_000) == pytest.approx(1.0)
    assert budget.allowed_usd_per_hour(Decimal(9), 1800) == pytest.approx(2.0)
    assert budget.allowed_usd_per_hour(Decimal(11), 1800) == 0


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(BudgetError, match="pays for nothing"):
        Budget(usd_per_hour=Decimal(0))


# -- hindsight ---------------------------------------------------------------------------------


def met(loads: list[float], expected: float = 10.0, error: float = 2.0) -> Hindsight:
    past = Hindsight()
    for load in loads:
        past = meet(past, load, 5.0, Forecast(expected, error, load), 0.99, 4.0)
    return past


def test_a_calm_load_is_served_with_ever_less() -> None:
    margins = [margin_for(met([10.0] * bins), 10.0, 0.01) for bins in (10, 200, 1500)]
    assert margins == sorted(margins, reverse=True)
    assert margins[-1] < margins[0]


def test_bursts_that_a_larger_fleet_would_have_met_raise_the_margin() -> None:
    bursty = ([10.0] * 50 + [14.0] * 20) * 6
    assert margin_for(met(bursty), 10.0, 0.01) > margin_for(met([10.0] * 420), 10.0, 0.01)


def test_who_is_late_on_paper_delays_nobody_else() -> None:
    """A burst of twice what the smallest paper fleet can do: half of it is late, and nobody of
    those who come when it is over."""
    burst = met([10.0] * 60 + [20.0] * 20)
    assert burst.late[0] == pytest.approx(20 * 10.0, rel=0.1)
    assert met([10.0] * 60 + [20.0] * 20 + [9.0] * 20).late[0] == pytest.approx(
        burst.late[0], rel=0.05
    )


def test_a_load_that_no_margin_meets_does_not_ask_for_the_largest() -> None:
    hopeless = [10.0] * 60 + [200.0] * 200
    assert margin_for(met(hopeless), 10.0, 0.01) < MARGINS[-1]


@pytest.mark.parametrize("back_s", [300, 3600, 86_400, 10_000_000])
def test_a_clock_that_is_set_back_orders_nothing(back_s: int) -> None:
    before = replay(MODEL, [10.0] * 60)[-1]
    seen = before.state.seen
    assert seen is not None
    after = decide(MODEL, replace(seen, now_s=seen.now_s - back_s), before.state)
    assert after.replicas <= before.replicas
    assert after.state.held_s == before.state.held_s


@pytest.mark.parametrize(
    ("attainment", "requests", "late"),
    [(0.9, 10, 1), (0.9, 1000, 100), (0.8, 10, 2), (0.99, 50, 0)],
)
def test_how_many_may_be_late(attainment: float, requests: int, late: int) -> None:
    assert may_be_late(attainment, requests) == late
