"""A hosted model whose replicas run in several places: node types, on demand or on a spot market.

Each place is a deployment with a queue of its own. A request goes to the place where it finds the
least before it. Where none runs, it wakes the one that the scaling rule would choose, by the same
functions (`cluster.scaling.placement`): a place that has not come up for long is left alone for a
while. Nobody waits at a place where nothing runs while another one does.

Batch work, for which nobody waits, is for spot: beside it, it only takes room that is paid for and
free, and it wakes no node that is bought on demand.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Protocol

from cluster.scaling.placement import Health, after_orders, after_success, place
from cluster.scaling.values import ModelScaling
from models.answerer import Answerer, Clock, Events
from models.call import Call
from models.errors import Overloaded
from models.messages import Completion, Request
from models.workforce.pace import COUNT_S
from serve.fleet import Count

#: How often one who waits where nothing runs looks whether it is better elsewhere, in seconds.
LOOK_S = 1.0


class Part(Answerer, Protocol):
    """The model in one of its places: `models.workforce.answerer.Workforce`. All of a model's keep
    one pace."""

    missed: int

    def wait_s(self, request: Request, call: Call, places: float) -> float: ...

    def drained_s(self) -> float: ...

    async def count(self, request: Request, *, within_s: float) -> int: ...


class Placed:
    """`places` by key, as one answerer. `model` has the offers that they are, `look` says what runs
    there, `room_of_one` how many requests of this gateway one replica takes."""

    def __init__(
        self,
        places: Mapping[str, Part],
        model: ModelScaling,
        look: Callable[[], Awaitable[Mapping[str, Count]]],
        clock: Clock,
        *,
        room_of_one: float,
    ) -> None:
        self._places = places
        self._model = model
        self._look = look
        self._clock = clock
        self._room_of_one = room_of_one
        self._under_way: Counter[str] = Counter()
        self._health: Health = {}
        self._waiting_s: dict[str, float] = {}
        #: Requests that went to another model since a replica was last told.
        self.missed = 0

    async def complete(self, request: Request, call: Call) -> Completion:
        full: set[str] = set()
        while True:
            key = await self._choose(call, full)
            with self._at(key) as here:
                asked = asyncio.ensure_future(here.complete(request, call))
                try:
                    if await self._stays(key, asked, call):
                        return await asked
                except Overloaded:
                    full.add(key)
                    if not await self._others(full):
                        raise
                finally:
                    await _ended(asked)

    async def stream(self, request: Request, call: Call) -> Events:
        """Moves only while nothing has come."""
        full: set[str] = set()
        while True:
            key = await self._choose(call, full)
            with self._at(key) as here:
                async with aclosing(here.stream(request, call)) as events:
                    first = asyncio.ensure_future(anext(events))
                    try:
                        if await self._stays(key, first, call):
                            yield await first
                            async for event in events:
                                yield event
                            return
                    except Overloaded:
                        full.add(key)
                        if not await self._others(full):
                            raise
                    finally:
                        await _ended(first)

    def wait_s(self, request: Request, call: Call, places: float) -> float:
        """Seconds that one who comes now waits for one of so many places at replicas."""
        return next(iter(self._places.values())).wait_s(request, call, places)

    def drained_s(self) -> float:
        """Seconds until all that is under way from here is through."""
        return next(iter(self._places.values())).drained_s()

    async def count(self, request: Request, *, within_s: float = COUNT_S) -> int:
        """The tokens of what the model would read, by its own tokenizer. Wakes who sleeps."""
        key = await self._choose(Call())
        return await self._places[key].count(request, within_s=within_s)

    @contextmanager
    def _at(self, key: str) -> Iterator[Part]:
        """One request is at this place."""
        here = self._places[key]
        here.missed, self.missed = here.missed + self.missed, 0
        self._under_way[key] += 1
        try:
            yield here
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                self._waiting_s.pop(key, None)

    async def _choose(self, call: Call, full: Collection[str] = ()) -> str:
        """The place for one that comes now."""
        counts = await self._look()
        self._notice(counts)
        key = choose(
            self._model,
            {key: counts.get(key, Count()).running * self._room_of_one for key in self._places},
            self._under_way,
            self._health,
            self._clock.now(),
            patient=call.priority == "low",
            full=full,
        )
        if not counts.get(key, Count()).running:
            self._waiting_s.setdefault(key, self._clock.now())
        return key

    def _notice(self, counts: Mapping[str, Count]) -> None:
        """Which places serve, and which have not come up for long."""
        for key, count in counts.items():
            if count.running:
                self._waiting_s.pop(key, None)
                self._health = after_success(self._health, key)
        now_s = self._clock.now()
        self._health = after_orders(self._health, self._model.offers, self._waiting_s, now_s)

    async def _stays(self, key: str, asked: asyncio.Future[Any], call: Call) -> bool:
        """Wait for what was asked here. False: it has not begun, and would be better elsewhere."""
        while not (await asyncio.wait({asked}, timeout=LOOK_S))[0]:
            here = (await self._look()).get(key, Count())
            # Whoever may be at work must not be asked twice.
            if not here.running and not here.leaving and await self._choose(call) != key:
                return False
        return True

    async def _others(self, full: Collection[str]) -> bool:
        """Whether something runs beside those that are full."""
        counts = await self._look()
        return any(count.running for key, count in counts.items() if key not in full)


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
            if key in spot or under_way.get(key, 0) + 1 <= size
        }
    if running:
        return min(running, key=lambda key: ((under_way.get(key, 0) + 1) / running[key], key))
    wanted = place(1, offers, health, now_s, model.on_demand_floor, float(patient))
    return next(iter(wanted.replicas))
