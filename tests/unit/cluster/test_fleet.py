"""One budget over models whose policies are asked one after the other."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal

import pytest

from cluster.cost import Offer, ServiceRates
from cluster.scaling.budget import Budget
from cluster.scaling.decision import (
    Decision,
    ModelScaling,
    ScalingState,
    ScalingTargets,
    Seen,
    decide,
)
from cluster.scaling.fleet import Fleet, Part
from cluster.scaling.placement import OfferHealth, place

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


# -- several places ----------------------------------------------------------------------------

FIRM = Offer("node", "on-demand", Decimal(1), 20.0, RATES)
SPOT = Offer("node", "spot", Decimal("0.3"), 20.0, RATES, 7200.0, 30.0)
PLACED = replace(MODEL, offers=(SPOT, FIRM), on_demand_floor=0.2)


class Life:
    """A model in two places, as Serve would run it: each place's policy is asked in turn."""

    def __init__(self, fleet: Fleet, name: str, budget: Budget | None = None) -> None:
        self.fleet, self.name, self.budget = fleet, name, budget or Budget()
        self.runs = {FIRM.key: 0, SPOT.key: 0}
        self.target = dict(self.runs)
        self.totals: dict[str, float] = {}
        self.last = decide(MODEL, Seen(NOW, 0), ScalingState())

    def ask(self, key: str, wants: int, at_s: float) -> Decision:
        # More waits than so many can ever do.
        model, waits = replace(PLACED, name=self.name, max_replicas=wants), 1e6 if wants else 0.0
        here = self.runs[key]
        starting = max(0, self.target[key] - here)
        part = Part(NOW + at_s, here, starting, waits, 0.0, self.totals if key == FIRM.key else {})
        decided = self.fleet.decide(model, key, part, self.budget, self.name)
        if decided is not None:
            self.last, _ = decided
            self.target[key] = self.last.placement.replicas.get(key, 0)
        return self.last

    def both(self, wants: int, at_s: float) -> dict[str, int]:
        for key in self.runs:
            self.ask(key, wants, at_s)
        return dict(self.target)

    def usd(self) -> float:
        held = {key: max(self.runs[key], self.target[key]) for key in self.runs}
        return held[FIRM.key] * 1.0 + held[SPOT.key] * 0.3


def test_spot_carries_all_but_the_floor_of_a_fleet() -> None:
    life = Life(Fleet(), "a")
    life.both(5, 0)
    assert life.both(5, 1) == {FIRM.key: 1, SPOT.key: 4}


def test_what_does_not_come_up_is_made_up_for_by_the_next_and_tried_again() -> None:
    life = Life(Fleet(), "a")
    life.both(5, 0)
    life.both(5, 0.5)
    life.runs[FIRM.key] = 1
    assert life.both(5, 59) == {FIRM.key: 1, SPOT.key: 4}
    life.both(5, 61)  # three start-up times
    decision = life.ask(FIRM.key, 5, 61.5)
    assert life.target == {FIRM.key: 5, SPOT.key: 0}
    assert "left alone for now: node/spot (did not come up)" in decision.why
    life.runs[FIRM.key] = 5
    life.both(5, 62)
    # A start-up time later it is tried with one; what serves stays until that does.
    life.both(5, 83)
    assert life.both(5, 83.5) == {FIRM.key: 5, SPOT.key: 1}
    life.runs[SPOT.key] = 1
    life.both(5, 84)
    assert life.both(5, 85) == {FIRM.key: 4, SPOT.key: 4}
    life.runs = {FIRM.key: 4, SPOT.key: 4}
    life.both(5, 86)
    assert life.both(5, 87) == {FIRM.key: 1, SPOT.key: 4}


def test_one_that_comes_up_late_is_forgiven_and_the_next_order_has_its_own_time() -> None:
    life = Life(Fleet(), "a")
    life.both(5, 0)
    life.both(5, 0.5)
    life.runs = {FIRM.key: 1, SPOT.key: 1}
    life.both(5, 55)
    assert life.both(5, 70) == {FIRM.key: 1, SPOT.key: 4}


def test_no_node_is_bought_on_demand_for_batch_work() -> None:
    life = Life(Fleet(), "a")
    life.totals = {"asked": 1.0, "patient": 1.0}
    life.both(0, 0)
    life.totals = {"asked": 101.0, "patient": 101.0}
    life.both(0, 0.5)
    assert life.both(5, 1) == {FIRM.key: 0, SPOT.key: 5}
    life.totals = {"asked": 201.0, "patient": 141.0}
    assert life.both(10, 2) == {FIRM.key: 1, SPOT.key: 9}, "three tenths are waited for"
    # Spot does not come: batch work waits for it.
    life.both(10, 70)
    assert life.both(10, 71) == {FIRM.key: 3, SPOT.key: 7}


def test_what_must_always_run_is_no_batch_works() -> None:
    found = place(1, PLACED.offers, {SPOT.key: OfferHealth(1, 99.0)}, 0.0, patient=1.0, least=1)
    assert found.replicas == {FIRM.key: 1}


def test_where_the_budget_does_not_pay_for_both_what_goes_makes_room() -> None:
    life = Life(Fleet(), "a", Budget(usd_per_hour=Decimal("1.5")))
    life.runs = {FIRM.key: 0, SPOT.key: 5}
    life.target = dict(life.runs)
    for second in range(10):
        life.both(5, second)
        assert life.usd() <= 1.5 + 1e-9
        for key in life.runs:
            life.runs[key] = life.target[key]
    assert life.target == {FIRM.key: 1, SPOT.key: 1}


def test_a_new_controller_starts_nothing_before_it_knows_what_runs() -> None:
    fleet, budget = Fleet(), Budget(usd_per_hour=Decimal(4))
    new, old = Life(fleet, "new", budget), Life(fleet, "old", budget)
    old.runs = old.target = {FIRM.key: 3, SPOT.key: 3}
    assert new.both(3, 0) == {FIRM.key: 0, SPOT.key: 0}
    assert old.both(6, 1) == {FIRM.key: 3, SPOT.key: 3}
    assert new.both(3, 4) == {FIRM.key: 0, SPOT.key: 0}


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_in_their_places_the_budget_is_never_passed(seed: int) -> None:
    chance = random.Random(seed)
    fleet, budget = Fleet(), Budget(usd_per_hour=Decimal(6))
    lives = [Life(fleet, name, budget) for name in "abc"]
    for second in range(250):
        life = chance.choice(lives)
        key = chance.choice([FIRM.key, SPOT.key])
        life.ask(key, chance.randrange(9), second * 0.5)
        # Replicas leave one by one, and come at once, late, or not at all; nodes die.
        here = life.runs[key]
        if here > life.target[key]:
            life.runs[key] = here - 1
        elif chance.random() < 0.5:
            life.runs[key] = life.target[key]
        elif here and chance.random() < 0.1:
            life.runs[key] = here - 1
        assert sum(life.usd() for life in lives) <= 6 + 1e-9


def test_a_place_that_serve_does_not_ask_about_freezes_nobody() -> None:
    life = Life(Fleet(), "a", Budget(usd_per_hour=Decimal(5)))
    for second in range(10):
        life.ask(FIRM.key, 5, second)
    assert life.target[FIRM.key] == 1, "its part of the floor"


@pytest.mark.parametrize("limit", [None, Decimal(5)])
def test_a_market_that_sells_again_takes_over_without_a_gap(limit: Decimal | None) -> None:
    life = Life(Fleet(), "a", Budget(usd_per_hour=limit))
    life.both(5, 0)
    life.both(5, 4)
    life.runs[FIRM.key] = 5 if limit is None else 4
    life.target[FIRM.key] = life.runs[FIRM.key]
    served = []
    for second in range(5, 60):
        life.both(5, second)
        # What goes, goes at once; what comes takes five seconds.
        life.runs[FIRM.key] = min(life.runs[FIRM.key], life.target[FIRM.key])
        if second % 5 == 0:
            life.runs = dict(life.target)
        served.append(sum(life.runs.values()))
    assert life.runs == {FIRM.key: 1, SPOT.key: 4}
    assert min(served) >= 3


def test_what_serves_is_not_given_up_at_once_to_try_again_what_did_not_come_up() -> None:
    life = Life(Fleet(), "a", Budget(usd_per_hour=Decimal(5)))
    life.both(5, 0)
    life.both(5, 4)
    life.runs[FIRM.key] = 1
    for second in range(5, 200):
        for key in life.runs:
            life.ask(key, 5, second)
        life.runs[FIRM.key] = life.target[FIRM.key]  # the market sells nothing
        if second > 80:
            assert life.runs[FIRM.key] >= 4
        assert life.usd() <= 5 + 1e-9
