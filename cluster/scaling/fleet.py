"""All scaled models of one installation under one budget, in Serve's controller.

Serve asks the policy of each model by itself, one after the other, in one process. So what they
share is one `Fleet` there (`FLEET`): each policy tells it what its model wants and gets what the
budget leaves. It is never passed, also while one model gives replicas back that another waits
for: what runs, or was granted and may be starting, is paid before anybody gets more.

What is known of a model is kept by its application: one that changes runs twice for a while, as it
was and as it is specified now, and both are paid for.

What a day has cost is the sum of what ran while the policies were asked. A controller that
restarts begins a new sum; the limit of an hour holds all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from cluster.scaling.budget import Budget, share, within
from cluster.scaling.values import Decision, ModelScaling, Seen

_DAY_S = 86_400.0
# A policy that was not asked for so long: Serve does not ask at zero replicas where somebody
# waits, and starts one replica by itself.
_UNASKED_S = 5.0
# Not asked for so long: the model is gone.
_GONE_S = 900.0
# Not asked for so long, while another application of the same model is: it was replaced.
_REPLACED_S = 60.0
_LONGEST_STEP_S = 60.0


@dataclass(slots=True)
class _Member:
    name: str  # the model's, which another application may share
    model: ModelScaling  # under the application's name
    wish: Decision
    runs: int
    granted: int
    at_s: float

    def held(self, now_s: float) -> int:
        """Replicas that are paid for, or may be in a moment."""
        by_itself = 1 if now_s - self.at_s > _UNASKED_S else 0
        return max(self.runs, self.granted, by_itself)

    def is_gone(self, name: str, now_s: float) -> bool:
        """While an application of the model `name` is asked."""
        return now_s - self.at_s >= (_REPLACED_S if self.name == name else _GONE_S)


@dataclass(slots=True)
class Fleet:
    """What every model wants, runs and was granted, by its application."""

    members: dict[str, _Member] = field(default_factory=dict)
    _day: int = -1
    _spent_today: float = 0.0

    def grant(
        self,
        model: ModelScaling,
        wish: Decision,
        seen: Seen,
        budget: Budget,
        application: str = "",
    ) -> Decision:
        """`wish`, or as much of it as the budget pays for. `seen.now_s` is seconds since 1970.
        Without an application the model's name stands for it."""
        now_s, key = seen.now_s, application or model.name
        known = self.members.get(key)
        self._pay(now_s, known)
        self.members = {n: m for n, m in self.members.items() if not m.is_gone(model.name, now_s)}
        runs = seen.replicas + seen.starting
        granted = known.granted if known else runs
        member = _Member(model.name, replace(model, name=key), wish, runs, granted, now_s)
        self.members[key] = member
        left_s = _DAY_S - now_s % _DAY_S
        allowed = budget.allowed_usd_per_hour(Decimal(repr(self._spent_today)), left_s)
        member.granted = min(wish.replicas, self._count(key, allowed, now_s))
        if member.granted == wish.replicas:
            return wish
        return within(wish, model, member.granted, allowed, now_s)

    def _count(self, name: str, allowed: float, now_s: float) -> int:
        if math.isinf(allowed):
            return self.members[name].wish.replicas
        member = self.members[name]
        fair = share(
            [m.model for m in self.members.values()],
            {n: m.wish for n, m in self.members.items()},
            allowed,
        )[name]
        others = sum(m.held(now_s) * _price(m.model) for n, m in self.members.items() if n != name)
        room = math.floor((allowed - others) / _price(member.model) + 1e-9)
        # Where others still hold more than their part, what runs here already may stay.
        return min(fair, max(room, min(member.runs, fair), 0))

    def _pay(self, now_s: float, known: _Member | None) -> None:
        day = int(now_s // _DAY_S)
        if day > self._day:  # a clock that is set back makes no new day
            self._day, self._spent_today = day, 0.0
        if known is not None:
            passed = min(max(0.0, now_s - known.at_s), _LONGEST_STEP_S)
            self._spent_today += known.runs * _price(known.model) * passed / 3600.0

    def usd_per_hour(self) -> Mapping[str, float]:
        """What replicas cost an hour now, by application."""
        return {n: m.runs * _price(m.model) for n, m in self.members.items()}


def _price(model: ModelScaling) -> float:
    return float(model.offers[0].usd_per_hour)


#: Of this process: Serve's controller has one.
FLEET = Fleet()
