"""What of the hosted models runs, as a gateway knows it: for what only a gateway can decide.

Serve starts a replica by itself for who waits at zero, without asking the scaling rule. So a
request that would wake a model the budget does not pay for must not reach it: `veto` is asked
before.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal

from cluster.scaling.budget import Budget
from models.answerer import Clock
from models.catalog import Catalog
from models.scaling import FIRST, Scaling
from models.scaling import Fleet as Limits
from models.workforce.names import application_name, hosted, is_same_model

log = logging.getLogger(__name__)

_KEPT_S = 1.0
_DAY_S = 86_400.0
_NANO = 10**9
#: Of a sum of prices that are floats.
_EPSILON = 1e-9
#: The longest that a client is told to wait for another model's rest: then only a larger budget
#: helps.
_LONGEST_RETRY_S = 600.0
#: How long a replica that was woken may be missing from what Serve shows.
_WOKEN_S = 15.0


@dataclass(frozen=True, slots=True)
class Count:
    """Replicas: those that serve, and those that are paid for."""

    running: int = 0
    paid: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.running + other.running, self.paid + other.paid)


@dataclass(frozen=True, slots=True)
class Veto:
    """The budget does not pay for a first replica: about how many seconds until it does, and why,
    in a sentence."""

    wait_s: float
    why: str


@dataclass(frozen=True, slots=True)
class _Day:
    """What is left of a UTC day: US dollars (None: no limit), seconds, and the most dollars an hour
    that may run now, by all limits."""

    left_usd: float | None
    left_s: float
    allowed: float

    def pays_in_s(self, cost: float) -> float:
        """Seconds until what is left pays for `cost` dollars an hour up to midnight; 0: now, or for
        the next hour."""
        paid_s = math.inf if self.left_usd is None else self.left_usd / cost * 3600.0
        return 0.0 if paid_s >= min(self.left_s, 3600.0) else self.left_s - paid_s


#: What Serve shows now, by application and place.
Look = Callable[[], Mapping[str, Mapping[str, Count]]]
Drained = Callable[[str], float]
#: Nano-dollars that replicas of these models have cost since midnight (UTC).
SpentToday = Callable[[Collection[str]], Awaitable[int]]


class Fleet:
    """Counts, at most a second old while they are asked for, and what all may cost. `drained` says
    of an application in how many seconds what is under way from here is through.

    The limits are those of the start, as Serve's controller has them: a newer catalog changes
    neither before the next start.
    """

    def __init__(
        self,
        clock: Clock,
        look: Look,
        limits: Limits,
        spent_today: SpentToday,
        drained: Drained = lambda _: 0.0,
    ) -> None:
        self._clock = clock
        self._look = look
        self._limits = limits
        self._spent_today = spent_today
        self._drained = drained
        self._counts: Mapping[str, Mapping[str, Count]] | None = None
        self._at = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._woken: dict[tuple[str, str], float] = {}

    async def count(self, application: str) -> Count:
        """Of this application. Waits only for the very first look."""
        return sum((await self.counts(application)).values(), Count())

    async def counts(self, application: str) -> Mapping[str, Count]:
        """The same by place."""
        now = self._clock.now()
        if self._counts is None:
            await self._look_again()
        elif now - self._at > _KEPT_S:
            self._begin_to_look()
        return (self._counts or {}).get(application, {})

    def _begin_to_look(self) -> asyncio.Task[None]:
        """One look at a time, for all who ask."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._refresh())
        return self._looking

    async def _look_again(self) -> None:
        await asyncio.shield(self._begin_to_look())

    async def _refresh(self) -> None:
        try:
            self._counts = await asyncio.to_thread(self._look)
        except Exception:  # a controller that restarts: what was seen last still holds
            log.warning("Serve does not say which replicas run", exc_info=True)
        self._at = self._clock.now()

    async def veto(self, name: str, catalog: Catalog, place: str = FIRST) -> Veto | None:
        """Why the budget does not pay for a first replica of this model in this place, where it has
        none; None: it does, and who is told so will start it. Raises StoreUnavailable."""
        if self._limits == Limits():
            return None
        spec = hosted(catalog)[name]
        mine = application_name(name, spec)
        hours = {one.key: one.usd_per_hour for one in spec.places}
        if place not in hours:
            return None  # of a catalog that is no more in force
        day = await self._rest_of_day(catalog)
        if await self._cost_with(mine, place, catalog) > day.allowed + _EPSILON:
            # Nobody is refused for what was given back a moment ago.
            await self._look_again()
            cost = await self._cost_with(mine, place, catalog)
            if cost > day.allowed + _EPSILON:
                return self._refused(hours[place], cost, await self._rest_s(mine, catalog), day)
        self._woken[mine, place] = self._clock.now()
        return None

    async def _rest_of_day(self, catalog: Catalog) -> _Day:
        spent, left_s = Decimal(0), _DAY_S - self._clock.now() % _DAY_S
        if self._limits.usd_per_day is not None:
            scaled = [name for name, spec in hosted(catalog).items() if spec.scaling is not None]
            spent = Decimal(await self._spent_today(scaled)) / _NANO
        limits = (self._limits.usd_per_hour, self._limits.usd_per_day)
        budget = Budget(*(None if one is None else Decimal(str(one)) for one in limits))
        allowed = budget.allowed_usd_per_hour(spent, left_s)
        left = None if budget.usd_per_day is None else max(0.0, float(budget.usd_per_day - spent))
        return _Day(left, left_s, allowed)

    def _refused(self, price: float, cost: float, rest_s: float, day: _Day) -> Veto:
        """`cost` is that of all replicas and this one, in US dollars an hour."""
        hour = self._limits.usd_per_hour
        over_hour = hour is not None and cost > hour + _EPSILON
        hour_s = rest_s if over_hour else 0.0
        if price > day.allowed + _EPSILON:
            day_s = day.pays_in_s(price)
        else:
            day_s = min(rest_s, day.pays_in_s(cost))
        if over_hour and hour_s >= day_s:
            if hour_s > _LONGEST_RETRY_S:
                raise_it = "Raise fleet.usd_per_hour: no other model is about to rest."
                return Veto(_LONGEST_RETRY_S, raise_it)
            may_rest = f"Another model may rest in {hour_s:.0f} s; or raise fleet.usd_per_hour."
            return Veto(hour_s, may_rest)
        return Veto(
            day_s,
            f"{day.left_usd:.2f} dollars are left of this UTC day, and an hour of it costs "
            f"{price:g}: it may start in {day_s:.0f} s; or raise fleet.usd_per_day.",
        )

    async def _rest_s(self, mine: str, catalog: Catalog) -> float:
        soonest = math.inf
        for other, spec in hosted(catalog).items():
            known_as = application_name(other, spec)
            if spec.scaling is None or known_as == mine:
                continue
            if (await self._paid(known_as)).total() > spec.replicas.min:
                through_s = self._drained(known_as)
                soonest = min(soonest, through_s + kept_warm_s(spec.scaling))
        return soonest

    async def _cost_with(self, mine: str, place: str, catalog: Catalog) -> float:
        """US dollars an hour of all scaled models, with at least one replica of `mine` there.

        While a model is replaced it has an application more, which this catalog does not know: its
        replicas cost what the model's do in the same place, or in the dearest.
        """
        known = {application_name(name, spec): spec for name, spec in hosted(catalog).items()}
        await self.counts(mine)
        unknown = (self._counts or {}).keys() - known.keys()
        total = 0.0
        for known_as, spec in known.items():
            if spec.scaling is None:
                continue
            hours = {one.key: one.usd_per_hour for one in spec.places}
            paid = await self._paid(known_as)
            if known_as == mine:
                paid |= Counter({place: 1})
            for other in unknown:
                if is_same_model(other, known_as):
                    paid += await self._paid(other)
            dearest = max(hours.values())
            total += sum(hours.get(key, dearest) * count for key, count in paid.items())
        return total

    async def _paid(self, application: str) -> Counter[str]:
        """Its replicas that cost money, or will in a moment, by place."""
        counts = await self.counts(application)
        now = self._clock.now()
        woken = [
            place
            for (woken, place), at in self._woken.items()
            if woken == application and now - at < _WOKEN_S
        ]
        return Counter({place: count.paid for place, count in counts.items()}) | Counter(woken)


def places(count: Count, max_ongoing: int, gateways: int) -> float:
    """Requests of one gateway that find room in the replicas at once."""
    return count.running * max_ongoing / max(1, gateways)


def kept_warm_s(scaling: Scaling) -> float:
    """How long a last replica idles at least before the scaling rule ends it: until that costs as
    much as a cold start and one late answer."""
    return scaling.node.startup_s + scaling.late_usd / scaling.node.usd_per_hour * 3600.0


class Site:
    """One model of the fleet, as `serve.overflow` asks for it."""

    def __init__(self, fleet: Fleet, name: str, catalog: Catalog) -> None:
        self._fleet = fleet
        self._name = name
        self._catalog = catalog
        self._application = application_name(name, hosted(catalog)[name])

    async def replicas(self) -> Count:
        return await self._fleet.count(self._application)

    async def veto(self, place: str) -> Veto | None:
        return await self._fleet.veto(self._name, self._catalog, place)
