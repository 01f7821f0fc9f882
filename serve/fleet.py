"""What of the hosted models runs, as a gateway knows it: for what only a gateway can decide.

Serve starts a replica by itself for who waits at zero, without asking the scaling rule. So a
request that would wake a model the budget does not pay for must not reach it: `affords_in_s` is
asked before.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.answerer import Clock
from models.catalog import Catalog
from models.scaling import Fleet as Limits
from models.scaling import Scaling
from models.workforce.names import application_name, hosted

log = logging.getLogger(__name__)

_KEPT_S = 1.0
#: How long a replica that was woken may be missing from what Serve shows.
_WOKEN_S = 15.0


@dataclass(frozen=True, slots=True)
class Count:
    """Replicas of one model: those that serve, and those that are paid for."""

    running: int = 0
    paid: int = 0


#: What Serve shows now, by application.
Look = Callable[[], Mapping[str, Count]]
Drained = Callable[[str], float]


class Fleet:
    """Counts, at most a second old while they are asked for, and what all may cost. `drained` says
    of an application in how many seconds what is under way from here is through.

    The limits are those of the start, as Serve's controller has them: a newer catalog changes
    neither before the next start.
    """

    def __init__(
        self, clock: Clock, look: Look, limits: Limits, drained: Drained = lambda _: 0.0
    ) -> None:
        self._clock = clock
        self._look = look
        self._limits = limits
        self._drained = drained
        self._counts: Mapping[str, Count] | None = None
        self._at = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._woken: dict[str, float] = {}

    async def count(self, application: str) -> Count:
        """Of this application. Waits only for the very first look."""
        now = self._clock.now()
        stale = self._counts is None or now - self._at > _KEPT_S
        if stale and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._refresh())
        if self._counts is None and self._looking is not None:
            await asyncio.shield(self._looking)
        return (self._counts or {}).get(application, Count())

    async def _refresh(self) -> None:
        try:
            self._counts = await asyncio.to_thread(self._look)
        except Exception:  # a controller that restarts: what was seen last still holds
            log.warning("Serve does not say which replicas run", exc_info=True)
        self._at = self._clock.now()

    async def affords_in_s(self, name: str, catalog: Catalog) -> float:
        """About how many seconds until the budget pays for a first replica of this model, which
        has none: until another one rests that has more than it must. Infinite where none has.
        Who is told 0 will start it."""
        limit = self._limits.usd_per_hour
        if limit is None:
            return 0.0
        mine = application_name(name, hosted(catalog)[name])
        if await self._cost_with(mine, catalog) > limit + 1e-9:
            # Nobody is refused for what was given back a moment ago.
            await self._refresh()
            if await self._cost_with(mine, catalog) > limit + 1e-9:
                return await self._rest_s(mine, catalog)
        self._woken[mine] = self._clock.now()
        return 0.0

    async def _rest_s(self, mine: str, catalog: Catalog) -> float:
        soonest = math.inf
        for other, spec in hosted(catalog).items():
            known_as = application_name(other, spec)
            if spec.scaling is None or known_as == mine:
                continue
            if await self._paid(known_as) > spec.replicas.min:
                through_s = self._drained(known_as)
                soonest = min(soonest, through_s + kept_warm_s(spec.scaling))
        return soonest

    async def _cost_with(self, mine: str, catalog: Catalog) -> float:
        """US dollars an hour of all scaled models, with one replica of `mine`."""
        total = 0.0
        for other, spec in hosted(catalog).items():
            if spec.scaling is None:
                continue
            known_as = application_name(other, spec)
            paid = await self._paid(known_as)
            if known_as == mine:
                paid = max(paid, 1)
            total += paid * spec.scaling.node.usd_per_hour
        return total

    async def _paid(self, application: str) -> int:
        """Its replicas that cost money, or will in a moment."""
        woken = self._clock.now() - self._woken.get(application, -_WOKEN_S) < _WOKEN_S
        return max((await self.count(application)).paid, int(woken))


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

    async def affords_in_s(self) -> float:
        return await self._fleet.affords_in_s(self._name, self._catalog)
