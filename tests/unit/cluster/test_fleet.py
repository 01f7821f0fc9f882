"""One budget over models whose policies are asked one after the other."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal

import pytest

from cluster.cost import Offer, ServiceRates
from cluster.scaling.budget import Budget
from cluster.scaling.decision import ModelScaling, ScalingState, ScalingTargets, Seen, decide
from cluster.scaling.fleet import Fleet

RATES = ServiceRates(4000, 0.045, 0.0009, 32)
MODEL = ModelScaling(
    "m", (Offer("node", "on-demand", Decimal(1), 60.0, RATES),), ScalingTargets(2.0)
)
NOW = 1_700_000_000.0


def ask(
    fleet: Fleet,
    name: str,
    wants: int,
    runs: int,
    at_s: float,
    budget: Budget,
    application: str = "",
) -> tuple[int, str]:
    """What a model that wants so many replicas is granted, and why."""
    model = replace(MODEL, name=name, min_replicas=wants, max_replicas=wants)
    seen = Seen(NOW + at_s, runs)
    wish = decide(model, seen, ScalingState())
    granted = fleet.grant(model, wish, seen, budget, application)
    return granted.replicas, granted.why


def test_without_a_limit_everybody_gets_what_it_wants() -> None:
    assert ask(Fleet(), "a", 7, 0, 0, Budget())[0] == 7


def test_what_another_holds_is_not_given_away_before_it_is_given_back() -> None:
    fleet, budget = Fleet(), Budget(usd_per_hour=Decimal(4))
    assert ask(fleet, "a", 4, 0, 0, budget)[0] == 4
    granted, why = ask(fleet, "b", 4, 0, 1, budget)
    assert granted == 0
    assert "budget allows 4.00 dollars an hour" in why
    # Its fair part is two: it gives two back, and only when they are gone they are had.
    assert ask(fleet, "a", 4, 4, 2, budget)[0] == 2
    assert ask(fleet, "b", 4, 0, 2.5, budget)[0] == 0
    assert ask(fleet, "a", 4, 2, 3, budget)[0] == 2
    assert ask(fleet, "b", 4, 0, 3.5, budget)[0] == 2


def test_a_model_that_serve_does_not_ask_about_may_be_starting_one() -> None:
    fleet, budget = Fleet(), Budget(usd_per_hour=Decimal(4))
    ask(fleet, "a", 0, 0, 0, budget)
    assert ask(fleet, "b", 4, 0, 10, budget)[0] == 3
    assert ask(fleet, "b", 4, 3, 2000, budget)[0] == 4, "a model that is gone is forgotten"


def test_a_model_that_is_replaced_is_paid_for_twice_until_the_old_one_is_gone() -> None:
    fleet, budget = Fleet(), Budget(usd_per_hour=Decimal(4))
    for second in range(10):
        assert ask(fleet, "a", 3, 3, second, budget, "a-old")[0] == (3 if second == 0 else 2)
        assert ask(fleet, "a", 3, 0, second + 0.5, budget, "a-new")[0] == 1
        assert dict(fleet.usd_per_hour()) == {"a-old": 3, "a-new": 0}
    # Serve has ended the old one: nobody asks for it any more.
    assert ask(fleet, "a", 3, 1, 30, budget, "a-new")[0] == 1
    assert ask(fleet, "a", 3, 1, 80, budget, "a-new")[0] == 3


def test_a_days_budget_is_used_up_and_there_again_the_next_day() -> None:
    fleet, budget = Fleet(), Budget(usd_per_day=Decimal("2.50"))
    start = 86_400 - NOW % 86_400
    granted = [ask(fleet, "a", 6, 2, start + s, budget)[0] for s in range(0, 3600, 30)]
    assert granted[0] == 2, "the next hour of two is paid for"
    assert granted[-1] == 0, "two dollars are gone"
    assert granted == sorted(granted, reverse=True)
    assert ask(fleet, "a", 6, 0, start + 86_400, budget)[0] == 2


@pytest.mark.parametrize("seed", range(5))
def test_whatever_they_want_the_budget_is_never_passed(seed: int) -> None:
    chance = random.Random(seed)
    fleet, budget = Fleet(), Budget(usd_per_hour=Decimal(10))
    runs = dict.fromkeys("abc", 0)
    for second in range(300):
        name = chance.choice("abc")
        target = ask(fleet, name, chance.randrange(12), runs[name], second * 0.5, budget)[0]
        # Replicas leave one by one, and come at once.
        runs[name] = max(target, runs[name] - 1)
        assert sum(runs.values()) <= 10
