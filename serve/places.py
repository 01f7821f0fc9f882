"""A hosted model whose replicas run in several places: node types, on demand or on a spot market.

Each place is a deployment with a queue of its own. A request goes to the place where it finds the
least before it. Where none runs, it wakes the one that the scaling rule would choose, by the same
functions (`cluster.scaling.placement`), if the budget pays for it: Serve starts a first replica for
who waits without asking the rule. A place that has not come up for long is left alone for a while.
Who waits moves to a place that has room, as long as no replica has begun with it.

Batch work, for which nobody waits, is for spot: beside it, it only takes room that is paid for and
free, and it wakes no node that is bought on demand.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.scaling.placement import Health, after_orders, after_success, place
from cluster.scaling.values import ModelScaling
from models.answerer import Answerer, Clock, Events
from models.call import Call
from models.errors import Overloaded, StoreUnavailable
from models.messages import Completion, Request
from models.values import changed
from models.workforce.pace import COUNT_S
from serve.fleet import Count, Veto

#: How often one who waits where nothing runs looks whether it is better elsewhere, in seconds.
LOOK_S = 1.0


class Part(Answerer, Protocol):
    """The model in one of its places: `models.workforce.answerer.Workforce`. All of a model's keep
    one pace."""

    missed: int

    def is_waiting(self, task: object) -> bool: ...

    def wait_s(self, request: Request, call: Call, places: float) -> float: ...

    def drained_s(self) -> float: ...

    async def count(self, request: Request, *, within_s: float) -> int: ...


@dataclass(slots=True)
class _Trip:
    """One request on its way: the places that had no room for it, and the one that it moves to."""

    call: Call
    full: set[str] = field(default_factory=set)
    to: str | None = None


class Placed:
    """`places` by key, as one answerer. `model` has the offers that they are, `look` says what runs
    there, `veto` why the budget does not pay for a first replica in a place, `room_of_one` how many
    requests of this gateway one replica takes."""

    def __init__(
        self,
        places: Mapping[str, Part],
        model: ModelScaling,
        look: Callable[[], Awaitable[Mapping[str, Count]]],
        veto: Callable[[str], Awaitable[Veto | None]],
        clock: Clock,
        *,
        room_of_one: float,
    ) -> None:
        self._places = places
        self._model = model
        self._look = look
        self._veto = veto
        self._clock = clock
        self._room_of_one = room_of_one
        self._under_way: Counter[str] = Counter()
        self._health: Health = {}
        self._waiting_s: dict[str, float] = {}
        #: Requests that went to another model since a replica was last told.
        self.missed = 0

    async def complete(self, request: Request, call: Call) -> Completion:
        with self._trip(call) as trip:
            while True:
                async with self._at(trip) as (key, here):
                    asked = asyncio.ensure_future(here.complete(request, trip.call))
                    try:
                        if await self._stays(trip, key, asked):
                            return await asked
                    except Overloaded:
                        if not await self._goes_on(trip, key):
                            raise
                    finally:
                        await _ended(asked)

    async def stream(self, request: Request, call: Call) -> Events:
        """Moves only while nothing has come."""
        with self._trip(call) as trip:
            while True:
                async with (
                    self._at(trip) as (key, here),
                    aclosing(here.stream(request, trip.call)) as events,
                ):
                    first = asyncio.ensure_future(anext(events))
                    try:
                        if not await self._stays(trip, key, first):
                            continue
                        event = await first
                    except Overloaded:
                        if not await self._goes_on(trip, key):
                            raise
                        continue
                    finally:
                        await _ended(first)
                    yield event
                    async for event in events:
                        yield event
                    return

    def wait_s(self, request: Request, call: Call, places: float) -> float:
        """Seconds that one who comes now waits for one of so many places at replicas."""
        return next(iter(self._places.values())).wait_s(request, call, places)

    def drained_s(self) -> float:
        """Seconds until all that is under way from here is through."""
        return next(iter(self._places.values())).drained_s()

    async def count(
        self, request: Request, call: Call | None = None, *, within_s: float = COUNT_S
    ) -> int:
        """The tokens of what the model would read, by its own tokenizer. Wakes who sleeps."""
        with self._trip(call or Call()) as trip:
            async with self._at(trip) as (_, here):
                return await here.count(request, within_s=within_s)

    @contextmanager
    def _trip(self, call: Call) -> Iterator[_Trip]:
        """While it moves a request keeps its age, and counts as being where it goes: else too many
        would go there."""
        trip = _Trip(changed(call, came=self._clock.now()))
        try:
            yield trip
        finally:
            if trip.to is not None:
                self._under_way[trip.to] -= 1

    @asynccontextmanager
    async def _at(self, trip: _Trip) -> AsyncIterator[tuple[str, Part]]:
        """One request is at the place that it moves to, or that is best for it. Raises Overloaded
        where the budget pays for none."""
        key = trip.to or await self._choose(trip)
        counts = await self._look()
        if not counts.get(key, Count()).running:
            self._waiting_s.setdefault(key, self._clock.now())
        here = self._places[key]
        here.missed, self.missed = here.missed + self.missed, 0
        if trip.to is None:
            self._under_way[key] += 1
        trip.to = None
        try:
            yield key, here
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                self._waiting_s.pop(key, None)

    async def _choose(self, trip: _Trip) -> str:
        """The place for one that comes now. Raises Overloaded."""
        counts = await self._look()
        self._notice(counts)
        key = self._pick(counts, trip.call, trip.full)
        if counts.get(key, Count()).paid or (veto := await self._veto(key)) is None:
            return key
        if any(count.running for count in counts.values()):
            # What runs is paid for.
            return self._pick(counts, changed(trip.call, priority="normal"), ())
        raise Overloaded(
            f"The budget of all models does not pay for a replica on {key} now. {veto.why}",
            retry_after_s=math.ceil(veto.wait_s),
        )

    def _pick(self, counts: Mapping[str, Count], call: Call, full: Collection[str]) -> str:
        """The best place, whatever it costs."""
        return choose(
            self._model,
            {key: count.running * self._room_of_one for key, count in counts.items()},
            self._under_way,
            self._health,
            self._clock.now(),
            patient=call.priority == "low",
            full=full,
        )

    def wakes(self, call: Call) -> str:
        """The place that a request would wake where nothing runs."""
        return self._pick({}, call, ())

    def _notice(self, counts: Mapping[str, Count]) -> None:
        """Which places serve, and which have not come up for long."""
        for key, count in counts.items():
            if count.running:
                self._waiting_s.pop(key, None)
                self._health = after_success(self._health, key)
        now_s = self._clock.now()
        self._health = after_orders(self._health, self._model.offers, self._waiting_s, now_s)

    async def _stays(self, trip: _Trip, key: str, asked: asyncio.Future[Any]) -> bool:
        """Wait for what was asked here. False: it has not begun, and moves to where it finds room
        or, where nothing runs here, to what is better."""
        while not (await asyncio.wait({asked}, timeout=LOOK_S))[0]:
            if not self._places[key].is_waiting(asked):
                continue
            counts = await self._look()
            self._notice(counts)
            better = self._pick(counts, trip.call, trip.full)
            here, there = counts.get(key, Count()), counts.get(better, Count())
            room = there.running * self._room_of_one - self._under_way[better]
            if better == key or (room <= 0 and here.running):
                continue
            if there.paid or await self._pays_for(better):
                if not self._places[key].is_waiting(asked):
                    continue
                trip.to = better
                self._under_way[better] += 1
                return False
        return True

    async def _pays_for(self, place: str) -> bool:
        """Whether the budget pays for a first replica there, as far as the store says."""
        with suppress(StoreUnavailable):
            return await self._veto(place) is None
        return False

    async def _goes_on(self, trip: _Trip, key: str) -> bool:
        """This place has no room for it. Whether another one runs."""
        trip.full.add(key)
        counts = await self._look()
        return any(count.running for other, count in counts.items() if other not in trip.full)


async def _ended(asked: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more."""
    if not asked.done():
        asked.cancel()
        await asyncio.wait({asked})


def choose(
    model: ModelScaling,
    room: Mapping[str, float],
    under_way: Mapping[str, int],
    health: Health,
    now_s: float,
    *,
    patient: bool = False,
    full: Collection[str] = (),
) -> str:
    """The place, by the key of its offer, for one request more.

    room: requests that find room at once where something runs, by place; under_way: those that are
    there. Of places that run, the one that is filled least. Where none does, the one that comes up
    first by what the rule would order.
    """
    offers = model.offers
    spot = [offer.key for offer in offers if offer.spot]
    patient = patient and offers[0].spot
    running = {key: size for key, size in room.items() if size > 0 and key not in full}
    if patient:
        running = {
            key: size
            for key, size in running.items()
            if key in spot or under_way.get(key, 0) + 1 <= max(1.0, size)
        }
    if running:
        return min(running, key=lambda key: ((under_way.get(key, 0) + 1) / running[key], key))
    wanted = place(1, offers, health, now_s, model.on_demand_floor, float(patient))
    return next(iter(wanted.replicas))
