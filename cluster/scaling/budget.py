"""One budget over all models: what an hour and a day may cost, and who gets it when it is short.

Pure. Dollars an hour are floats here (they steer); what was really spent comes from accounts as
Decimal.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from cluster.errors import BudgetError
from cluster.scaling.decision import Decision, ModelScaling, ScalingState, Seen, decide
from cluster.scaling.placement import Health, Placement, place

_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Budget:
    """Dollars an hour and a day for all models together; None is no limit.

    Raises BudgetError for a limit that is not above zero.
    """

    usd_per_hour: Decimal | None = None
    usd_per_day: Decimal | None = None

    def __post_init__(self) -> None:
        for limit, unit in ((self.usd_per_hour, "an hour"), (self.usd_per_day, "a day")):
            if limit is not None and limit <= 0:
                raise BudgetError(f"a budget of {limit} dollars {unit} pays for nothing")

    def allowed_usd_per_hour(self, spent_today: Decimal, day_left_s: float) -> float:
        """The most that may run now, in dollars an hour.

        The day's rest must pay for the next hour, or for what is left of the day if that is
        less: the nearer the day's limit, the slower, so that it is never passed.
        """
        allowed = float("inf") if self.usd_per_hour is None else float(self.usd_per_hour)
        if self.usd_per_day is not None:
            left = max(0.0, float(self.usd_per_day - spent_today))
            allowed = min(allowed, left / (max(1.0, min(day_left_s, _HOUR_S)) / _HOUR_S))
        return allowed


def decide_all(
    models: Sequence[ModelScaling],
    seen: Mapping[str, Seen],
    states: Mapping[str, ScalingState],
    budget: Budget | None = None,
    spent_today: Decimal = Decimal(0),
    day_left_s: float = 24 * _HOUR_S,
) -> dict[str, Decision]:
    """A decision for every model, together within the budget.

    seen, states: by model name; a model without an entry in `states` starts anew. Where the sum
    is above the budget, `share` says who gets less.
    """
    decisions = {
        model.name: decide(model, seen[model.name], states.get(model.name, ScalingState()))
        for model in models
    }
    if budget is None:
        return decisions
    allowed = budget.allowed_usd_per_hour(spent_today, day_left_s)
    if sum(d.placement.usd_per_hour for d in decisions.values()) <= allowed:
        return decisions
    counts = share(models, decisions, allowed)
    for model in models:
        if counts[model.name] < decisions[model.name].replicas:
            decisions[model.name] = within(
                decisions[model.name], model, counts[model.name], allowed, seen[model.name].now_s
            )
    return decisions


def within(
    wish: Decision, model: ModelScaling, count: int, allowed: float, now_s: float
) -> Decision:
    """`wish` cut to `count` replicas, saying that the budget of `allowed` dollars an hour did."""
    patient = wish.state.seen.patient if wish.state.seen else 0.0
    placement = placed(model, count, wish.state.health, now_s, patient)
    why = (
        f"{count} replicas: the budget allows {allowed:.2f} dollars an hour for all models; "
        f"without it {wish.why}"
    )
    causes = (*wish.causes, "budget")
    return replace(wish, replicas=count, placement=placement, why=why, causes=causes)


def placed(
    model: ModelScaling, count: int, health: Health, now_s: float, patient: float
) -> Placement:
    """Where so many replicas of the model go."""
    floor, least = model.on_demand_floor, model.min_replicas
    return place(count, model.offers, health, now_s, floor, patient, least)


def share(
    models: Sequence[ModelScaling], decisions: Mapping[str, Decision], allowed: float
) -> dict[str, int]:
    """Replicas by model for `allowed` dollars an hour, never more than its decision wants.

    Replica by replica to the model that is served worst: the smallest part of its wish
    fulfilled, over its priority. A first replica comes before anybody's second.
    """
    counts = {model.name: 0 for model in models}
    # Placement may mix markets: a model's mean price is what its next replica costs.
    price = {
        name: d.placement.usd_per_hour / d.replicas for name, d in decisions.items() if d.replicas
    }
    order = [
        (0.0, -model.priority, model.name, decisions[model.name].replicas, model.priority)
        for model in models
        if decisions[model.name].replicas
    ]
    heapq.heapify(order)
    left = allowed + 1e-9
    while order:
        _, tie, name, wish, priority = heapq.heappop(order)
        if price[name] > left:
            continue
        left -= price[name]
        counts[name] += 1
        if counts[name] < wish:
            heapq.heappush(order, (counts[name] / wish / priority, tie, name, wish, priority))
    return counts
