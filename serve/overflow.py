"""A hosted model that has no room: its request waits, goes to a model that answers as well, or is
told when to come back.

The rule is `cluster.scaling.overflow`; this is its place at the door. What goes elsewhere returns
by itself: each request is judged by what waits now. The scaling rule hears of what went elsewhere
with the next request that is handed to a replica, so that it scales for all that came.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Protocol

from cluster.scaling.overflow import OverflowLimits, overflow, retry_after_s
from models.answerer import Answerer, Events
from models.call import Call
from models.errors import (
    ApprovalNeeded,
    FusionError,
    Overloaded,
    PolicyDenied,
    StoreUnavailable,
    Unavailable,
)
from models.messages import Completion, Done, Request, Usage
from models.prices import Price
from models.scaling import Scaling
from models.wrappers.limit import TYPICAL_ANSWER, expected_tokens
from serve.fleet import Count, Veto, places

#: Who cannot take a request after all, or must not, has cost nothing but time: it waits here.
_NOT_TAKEN = (Overloaded, PolicyDenied, ApprovalNeeded)
_NANO = Decimal(10**9)


class Record(Protocol):
    """Where it is counted, by model: `spilled`, `shed`, `vetoed`."""

    def count(self, model: str, what: str) -> None: ...


class Queue(Protocol):
    """What is under way to the model from here: `models.workforce.answerer.Workforce`."""

    #: Requests that went elsewhere since a replica was last told.
    missed: int

    def wait_s(self, request: Request, call: Call, places: float) -> float: ...

    async def count(self, request: Request, *, within_s: float) -> int: ...


class Site(Protocol):
    """What is known of the model's replicas."""

    async def replicas(self) -> Count: ...

    async def veto(self) -> Veto | None:
        """Why the budget does not pay for a first replica; None: it does, and who is told so will
        start it."""
        ...


@dataclass(frozen=True, slots=True)
class Other:
    """A model that answers as well. Without a price it costs nothing."""

    name: str
    answerer: Answerer
    price: Price | None = None

    def usd(self, request: Request) -> Decimal:
        """About what this request costs there."""
        if self.price is None:
            return Decimal(0)
        answer = min(request.sampling.max_tokens or TYPICAL_ANSWER, TYPICAL_ANSWER)
        usage = Usage(input=max(0, expected_tokens(request) - answer), output=answer)
        return self.price.cost(usage) / _NANO


@dataclass(frozen=True, slots=True)
class _Way:
    """Where a request goes. `other` None: here. Where it may not wait here, `here` is false."""

    other: Other | None = None
    expected_s: float = 0.0
    here: bool = True


class Overflowing:
    """`inner`, the answerer of the hosted model `name`, with what does not fit going elsewhere.

    `workforce` is its innermost part: it knows what is under way. `others` answer as well.
    """

    def __init__(
        self,
        name: str,
        inner: Answerer,
        workforce: Queue,
        scaling: Scaling,
        site: Site,
        record: Record,
        *,
        max_ongoing: int,
        gateways: int,
        others: tuple[Other, ...] = (),
    ) -> None:
        self._name = name
        self._inner = inner
        self._workforce = workforce
        self._startup_s = scaling.node.startup_s
        self._limits = OverflowLimits(
            scaling.targets.ttft_s, scaling.shed_after_s, Decimal(str(scaling.late_usd))
        )
        self._site = site
        self._record = record
        self._max_ongoing = max_ongoing
        self._gateways = gateways
        self._others = others
        self._waking: asyncio.Task[None] | None = None

    async def complete(self, request: Request, call: Call) -> Completion:
        way = await self._way(request, call)
        if way.other is not None:
            try:
                return await self._there(way.other, way, request, call)
            except _NOT_TAKEN:
                if not way.here:
                    raise
        try:
            return await self._inner.complete(request, call)
        except Unavailable as error:
            other, gone = self._rescuer(way, request, call, error), error
        try:
            return await self._there(other, self._rescued(other), request, call)
        except _NOT_TAKEN:
            raise gone from None

    async def stream(self, request: Request, call: Call) -> Events:
        """Goes elsewhere only while no event has been sent on."""
        way, sent = await self._way(request, call), False
        if way.other is not None:
            try:
                async with aclosing(self._streamed(way.other, way, request, call)) as events:
                    async for event in events:
                        sent = True
                        yield event
                return
            except _NOT_TAKEN:
                if sent or not way.here:
                    raise
        try:
            async with aclosing(self._inner.stream(request, call)) as events:
                async for event in events:
                    sent = True
                    yield event
            return
        except Unavailable as error:
            if sent:
                raise
            other, gone = self._rescuer(way, request, call, error), error
        rescue = self._streamed(other, self._rescued(other), request, call)
        try:
            async with aclosing(rescue) as events:
                async for event in events:
                    sent = True
                    yield event
        except _NOT_TAKEN:
            if sent:
                raise
            raise gone from None

    async def _there(self, other: Other, way: _Way, request: Request, call: Call) -> Completion:
        answer = await other.answerer.complete(replace(request, model=other.name), call)
        self._went()
        return self._signed(answer, way)

    async def _streamed(self, other: Other, way: _Way, request: Request, call: Call) -> Events:
        asked, taken = replace(request, model=other.name), False
        async with aclosing(other.answerer.stream(asked, call)) as events:
            async for event in events:
                if not taken:
                    taken = True
                    self._went()
                if isinstance(event, Done):
                    event = Done(self._signed(event.completion, way))
                yield event

    def _rescuer(self, way: _Way, request: Request, call: Call, error: Unavailable) -> Other:
        """Who answers where the replicas went away under a request and no other took it in time: a
        node that died, the last of its model. Raises `error` where that is nobody.

        Nothing was billed here, and nothing had come.
        """
        other = self._cheapest(request)
        verdict = overflow(self._startup_s, self._limits_of(call), _usd(other, request))
        ours = isinstance(error, StoreUnavailable)
        if other is None or way.other is not None or verdict != "spill" or ours:
            raise error
        return other

    def _rescued(self, other: Other) -> _Way:
        return self._elsewhere(other, self._startup_s)

    def _cheapest(self, request: Request) -> Other | None:
        return min(self._others, key=lambda other: other.usd(request), default=None)

    async def _way(self, request: Request, call: Call) -> _Way:
        count = await self._site.replicas()
        other = self._cheapest(request)
        if count.running == 0:
            return await self._way_at_zero(request, call, count, other)
        room = places(count, self._max_ongoing, self._gateways)
        expected_s = self._workforce.wait_s(request, call, room)
        limits = self._limits_of(call)
        verdict = overflow(expected_s, limits, _usd(other, request))
        if verdict == "spill":
            return self._elsewhere(other, expected_s)
        if verdict == "shed":
            self._record.count(self._name, "shed")
            raise Overloaded(
                f"Model '{self._name}' has {expected_s:.0f} s of work waiting before this.",
                retry_after_s=retry_after_s(expected_s, limits.ttft_s),
            )
        return _Way()

    async def _way_at_zero(
        self, request: Request, call: Call, count: Count, other: Other | None
    ) -> _Way:
        """Nobody serves: whoever is handed on makes Serve start a replica, whatever it costs."""
        dear = call.priority == "low" and other is not None and other.usd(request) > 0
        if count.paid == 0 and (veto := await self._site.veto()) is not None:
            if other is not None and not dear:
                return self._elsewhere(other, self._startup_s, here=False)
            self._record.count(self._name, "vetoed")
            raise Overloaded(
                f"Model '{self._name}' does not run, and the budget of all models does not pay "
                f"for a replica now. {veto.why}",
                retry_after_s=math.ceil(veto.wait_s),
            )
        verdict = overflow(self._startup_s, self._limits_of(call), _usd(other, request))
        if verdict != "spill":
            return _Way()  # it waits for the start, and causes it
        self._wake(request)
        return self._elsewhere(other, self._startup_s)

    def _limits_of(self, call: Call) -> OverflowLimits:
        """Nobody waits for batch work, so it is never late, and no money buys it time."""
        return (
            replace(self._limits, late_usd=Decimal(0)) if call.priority == "low" else self._limits
        )

    def _wake(self, request: Request) -> None:
        """Ask for a replica without making this request wait for it."""
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._asked(request))

    async def _asked(self, request: Request) -> None:
        with suppress(FusionError):
            await self._workforce.count(request, within_s=3 * self._startup_s + 60)

    def _elsewhere(self, other: Other | None, expected_s: float, *, here: bool = True) -> _Way:
        assert other is not None
        return _Way(other, expected_s, here)

    def _went(self) -> None:
        """Another model has taken a request of this one's. Whom it refuses is asked here, and
        counted as what is asked here."""
        self._workforce.missed += 1
        self._record.count(self._name, "spilled")

    def _signed(self, completion: Completion, way: _Way) -> Completion:
        spilled: dict[str, Any] = {"model": self._name, "expected_s": round(way.expected_s, 1)}
        return replace(completion, extension={**completion.extension, "spilled_from": spilled})


def _usd(other: Other | None, request: Request) -> Decimal | None:
    return None if other is None else other.usd(request)
