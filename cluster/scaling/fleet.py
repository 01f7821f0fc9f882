"""All scaled models of one installation under one budget, in Serve's controller.

Serve asks the policy of each deployment by itself, one after the other, in one process. So what
they share is one `Fleet` there (`FLEET`). A model is an application, and has a deployment in each
place (`cluster.cost.Offer`) that it may run in: what each of them shows is put together, the rule
decides for the model, and each gets its part. The budget is never passed, also while one model
gives replicas back that another waits for, or one moves from place to place: what runs, or was
granted and may be starting, is paid before anybody gets more.

What is known of a model is kept by its application: one that changes runs twice for a while, as it
was and as it is specified now, and both are paid for.

What a day has cost is the sum of what ran while the policies were asked. A controller that
restarts begins a new sum; the limit of an hour holds all the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from cluster.scaling.budget import Budget, placed, share, within
from cluster.scaling.decision import decide
from cluster.scaling.placement import Placement, after_success, keep_until_replaced
from cluster.scaling.values import Decision, ModelScaling, ScalingState, Seen

_DAY_S = 86_400.0
# A policy that was not asked for so long: Serve does not ask at zero replicas where somebody
# waits, and starts one replica by itself.
_UNASKED_S = 5.0
# Not asked for so long: the model is gone.
_GONE_S = 900.0
# Not asked for so long, while another application of the same model is: it was replaced.
_REPLACED_S = 60.0
_LONGEST_STEP_S = 60.0
# In which every policy is asked once. Until then nobody knows what a controller before this one had
# started.
_MEETING_S = 3.0
# Requests that a mean is made of.
_REMEMBERED = 1000.0


@dataclass(frozen=True, slots=True)
class Part:
    """One place of a model, as its deployment's policy sees it. `totals` are running sums over all
    its replicas that never fall (`cluster.scaling.policy`)."""

    now_s: float
    replicas: int
    starting: int
    queued: float
    running: float
    totals: Mapping[str, float]


@dataclass(slots=True)
class _Member:
    """One application: what its places have shown, and what was decided."""

    name: str  # the model's, which another application may share
    model: ModelScaling  # under the application's name
    wish: Decision | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    #: What the policy of each place was told last, which Serve may not have carried out yet.
    told: dict[str, int] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)
    at_s: float = 0.0
    state: ScalingState = field(default_factory=ScalingState)
    _ordered_s: dict[str, float] = field(default_factory=dict)
    _arrived: float = 0.0
    _asked: float = 0.0
    _patient_asked: float = 0.0
    _patient: float = 0.0

    def held_usd(self, now_s: float) -> float:
        """Dollars an hour of what is paid for, or may be in a moment."""
        return self.usd(self.held(now_s))

    def held(self, now_s: float) -> Counter[str]:
        """Replicas that run or may come up any moment, by place."""
        asked_s = {key: part.now_s for key, part in self.parts.items()}
        asked_s = asked_s or {self.model.offers[0].key: self.at_s}
        by_itself = {key: 1 for key, at_s in asked_s.items() if now_s - at_s > _UNASKED_S}
        return self.runs | Counter(self.told) | Counter(by_itself)

    def usd(self, replicas: Mapping[str, int]) -> float:
        """Dollars an hour of replicas by place."""
        prices = {offer.key: float(offer.usd_per_hour) for offer in self.model.offers}
        return sum(prices.get(key, 0.0) * count for key, count in replicas.items())

    def is_gone(self, name: str, now_s: float) -> bool:
        """While an application of the model `name` is asked."""
        return now_s - self.at_s >= (_REPLACED_S if self.name == name else _GONE_S)

    def take(self, key: str, part: Part) -> None:
        """What the policy of the place `key` sees now."""
        before = self.parts.get(key)
        self.parts[key] = part
        came = before is not None and part.replicas > before.replicas
        if came:
            self.state = replace(self.state, health=after_success(self.state.health, key))
        if part.starting == 0:
            self._ordered_s.pop(key, None)
        elif came:
            self._ordered_s[key] = part.now_s
        else:
            self._ordered_s.setdefault(key, part.now_s)

    def seen(self, now_s: float) -> Seen:
        """All places together."""
        parts = self.parts.values()
        total = Counter[str]()
        for part in parts:
            total.update(part.totals)
        queued, running = sum(p.queued for p in parts), sum(p.running for p in parts)
        # What has arrived is what was answered and what is here. A mean that falls is no
        # negative arrival, so the total never falls.
        self._arrived = max(
            self._arrived, total["answered"] + total["elsewhere"] + queued + running
        )
        asked = total["asked"] - self._asked
        if asked > 0:
            patient = (total["patient"] - self._patient_asked) / asked
            weight = asked / min(total["asked"], max(asked, _REMEMBERED))
            self._patient += (patient - self._patient) * weight
            self._asked, self._patient_asked = total["asked"], total["patient"]
        prompt_mean = (
            total["prompt_tokens"] / total["answered"]
            if total["answered"] and total["prompt_tokens"]
            else self.model.expected_tokens[0]
        )
        return Seen(
            now_s=now_s,
            replicas=sum(p.replicas for p in parts),
            starting=sum(p.starting for p in parts),
            queued_requests=queued,
            queued_prompt_tokens=queued * prompt_mean,
            running_requests=running,
            arrived=self._arrived,
            arrived_prompt_tokens=self._arrived * prompt_mean,
            answered=total["answered"],
            generated_tokens=total["generated_tokens"],
            first_tokens=total["first_tokens"],
            late=total["late"],
            patient=min(1.0, max(0.0, self._patient)),
            serving={key: p.replicas for key, p in self.parts.items()},
            ordered={key: p.starting for key, p in self.parts.items()},
            oldest_order_s=dict(self._ordered_s),
        )


@dataclass(slots=True)
class Fleet:
    """What every model wants, runs and was granted, by its application."""

    members: dict[str, _Member] = field(default_factory=dict)
    _began_s: float = math.inf
    _day: int = -1
    _spent_today: float = 0.0

    def decide(
        self, model: ModelScaling, key: str, part: Part, budget: Budget, application: str = ""
    ) -> tuple[Decision, Seen] | None:
        """What is decided for `model`, of whose place `key` its policy shows `part`, and what was
        seen of all its places. The placement is within the budget. None: not all of its places have
        been seen yet, so each stays as it is."""
        self._began_s = min(self._began_s, part.now_s)
        member = self._member(model, application or model.name)
        member.take(key, part)
        # Serve does not ask at zero replicas where somebody waits, so not for ever.
        met = part.now_s - self._began_s >= _MEETING_S
        if len(member.parts) < len(model.offers) and not met:
            return None
        seen = member.seen(part.now_s)
        wish = decide(model, seen, member.state)
        member.state = wish.state
        return self.grant(model, wish, seen, budget, application, key), seen

    def _member(self, model: ModelScaling, application: str) -> _Member:
        return self.members.setdefault(
            application, _Member(model.name, replace(model, name=application))
        )

    def grant(
        self,
        model: ModelScaling,
        wish: Decision,
        seen: Seen,
        budget: Budget,
        application: str = "",
        asked: str | None = None,
    ) -> Decision:
        """`wish`, or as much of it as the budget pays for, and where it goes, as the policy of the
        place `asked` is told (default: of the first offer): nothing that serves is given up before
        its replacement does, where that can be paid for. `seen.now_s` is seconds since 1970.
        Without an application the model's name stands for it."""
        now_s, key = seen.now_s, application or model.name
        asked = asked or model.offers[0].key
        member = self._member(model, key)
        self._pay(now_s, member)
        runs = _runs(model, seen)
        member.model = replace(model, name=key)
        member.wish, member.runs, member.at_s = wish, runs, now_s
        self.members = {n: m for n, m in self.members.items() if not m.is_gone(model.name, now_s)}
        left_s = _DAY_S - now_s % _DAY_S
        allowed = budget.allowed_usd_per_hour(Decimal(repr(self._spent_today)), left_s)
        count = self._count(key, allowed, seen)
        decision = wish if count == wish.replicas else within(wish, model, count, allowed, now_s)
        placement = decision.placement
        replicas = self._placed(key, placement.replicas, asked, allowed, seen)
        member.told[asked] = replicas.get(asked, 0)
        if replicas == placement.replicas:
            return decision
        usd = member.usd(replicas)
        return replace(decision, placement=Placement(replicas, usd, placement.why))

    def _room(self, name: str, allowed: float, now_s: float) -> float:
        """Dollars an hour that the others leave."""
        return allowed - sum(m.held_usd(now_s) for n, m in self.members.items() if n != name)

    def _count(self, name: str, allowed: float, seen: Seen) -> int:
        member = self.members[name]
        assert member.wish is not None
        if math.isinf(allowed):
            return member.wish.replicas
        wishes = {n: m.wish for n, m in self.members.items() if m.wish is not None}
        fair = share([self.members[n].model for n in wishes], wishes, allowed)[name]
        room = self._room(name, allowed, seen.now_s) + 1e-9
        model, health = member.model, member.wish.state.health
        count = fair
        # Where others still hold more than their part, what runs here already may stay.
        while (
            count > member.runs.total()
            and placed(model, count, health, seen.now_s, seen.patient).usd_per_hour > room
        ):
            count -= 1
        return count

    def _placed(
        self, name: str, wanted: Mapping[str, int], asked: str, allowed: float, seen: Seen
    ) -> dict[str, int]:
        """Replicas by place, on the way to `wanted`: no more at the place `asked` than can be paid
        beside what is at the others. What serves is kept until its replacement does; where both
        cannot be paid, one replica makes room for the next."""
        member = self.members[name]
        room = self._room(name, allowed, seen.now_s) + 1e-9
        serving = seen.serving or member.runs
        placed = keep_until_replaced(wanted, serving)
        held, runs = member.held(seen.now_s), member.runs[asked]
        elsewhere = held - Counter({asked: held[asked]})
        count = placed.get(asked, 0) - _makes_room(member, wanted, serving, held, asked, room)
        if math.isfinite(allowed) and 0 <= seen.now_s - self._began_s < _MEETING_S:
            count = min(count, runs)
        while count > runs and member.usd(elsewhere | Counter({asked: count})) > room:
            count -= 1
        return dict(+Counter(placed | {asked: count}))

    def _pay(self, now_s: float, known: _Member) -> None:
        day = int(now_s // _DAY_S)
        if day > self._day:  # a clock that is set back makes no new day
            self._day, self._spent_today = day, 0.0
        if known.wish is not None:
            passed = min(max(0.0, now_s - known.at_s), _LONGEST_STEP_S)
            self._spent_today += known.usd(known.runs) * passed / 3600.0

    def usd_per_hour(self) -> Mapping[str, float]:
        """What replicas cost an hour now, by application."""
        return {n: m.usd(m.runs) for n, m in self.members.items()}


def _makes_room(
    member: _Member,
    wanted: Mapping[str, int],
    serving: Mapping[str, int],
    held: Counter[str],
    asked: str,
    room: float,
) -> int:
    """How many replicas too many at the place `asked` are given up, so that `room` dollars an hour
    pay for the next one of another place. None while one is coming up there."""
    price = {offer.key: float(offer.usd_per_hour) for offer in member.model.offers}
    # What a place lacks that may be counted on.
    lacking = [
        price[key]
        for key, number in wanted.items()
        if number > held[key] and key != asked and key not in member.state.health
    ]
    surplus = serving.get(asked, 0) - wanted.get(asked, 0)
    coming = any(held[key] > serving.get(key, 0) for key in wanted if key != asked)
    if not lacking or surplus <= 0 or coming or math.isinf(room):
        return 0
    missing = min(lacking) - (room - member.usd(held))
    return min(surplus, max(0, math.ceil(missing / price[asked] - 1e-9)))


def _runs(model: ModelScaling, seen: Seen) -> Counter[str]:
    """Replicas that serve or start, by place."""
    known = Counter(seen.serving) + Counter(seen.ordered)
    return known or +Counter({model.offers[0].key: seen.replicas + seen.starting})


#: Of this process: Serve's controller has one.
FLEET = Fleet()
