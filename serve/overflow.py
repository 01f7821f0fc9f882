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
    AnswerDenied,
    ApprovalNeeded,
    BadRequest,
    BudgetExceeded,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    PolicyDenied,
    StoreUnavailable,
    Unavailable,
    UpstreamError,
)
from models.messages import Completion, Done, Request, Usage
from models.prices import Price
from models.scaling import Scaling
from models.wrappers.limit import answer_tokens, prompt_tokens
from serve.fleet import Count, Veto, places

#: Whoever says so does not answer in this model's place, which says nothing about this model: the
#: request goes on to the next, and at last waits here. Where its time is over, this model says so.
_NOT_TAKEN = (
    *(Overloaded, Unavailable, UpstreamError, DeadlineExceeded),
    *(BadRequest, BudgetExceeded, PolicyDenied, ApprovalNeeded),
)
_NANO = Decimal(10**9)


class Record(Protocol):
    """Where it is counted, by model: `spilled`, `shed`, `vetoed`."""

    def count(self, model: str, what: str) -> None: ...


class Queue(Protocol):
    """What is under way to the model from here: `models.workforce.answerer.Workforce`."""

    #: Requests that went elsewhere since a replica was last told.
    missed: int

    def wait_s(self, request: Request, call: Call, places: float) -> float: ...

    def wakes(self, call: Call) -> str:
        """The place of the replica that a request would wake."""
        ...

    async def count(self, request: Request, call: Call, *, within_s: float) -> int: ...


class Site(Protocol):
    """What is known of the model's replicas."""

    async def replicas(self) -> Count: ...

    async def veto(self, place: str) -> Veto | None:
        """Why the budget does not pay for a first replica there; None: it does, and who is told so
        will start it."""
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
        used = Usage(prompt_tokens(request), answer_tokens(request))
        return self.price.cost(used) / _NANO


@dataclass(frozen=True, slots=True)
class _Refusal:
    """As what it is counted, and what the client is told."""

    what: str
    error: Overloaded


@dataclass(frozen=True, slots=True)
class _Way:
    """Where a request goes: to the first of `others` that takes it, else it waits here; where it
    may not, it gets the refusal."""

    others: tuple[Other, ...] = ()
    expected_s: float = 0.0
    refusal: _Refusal | None = None


def _denied(error: FusionError) -> FusionError | None:
    """The error, if it is a rule that keeps a request from going elsewhere: one that may not wait
    either is told that. Raises what it would meet here too: a silence of our own store, and a rule
    about answers."""
    if isinstance(error, StoreUnavailable | AnswerDenied):
        raise error
    return error if isinstance(error, PolicyDenied | ApprovalNeeded) else None


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
        self._prefill_tokens_per_s = scaling.replica.prefill_tokens_per_s
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
        if (answer := await self._there(way, request, call)) is not None:
            return answer
        self._refuse(way)
        try:
            return await self._inner.complete(request, call)
        except Unavailable as error:
            rescue, gone = self._rescue(way, request, call, error), error
        answer = await self._there(rescue, request, call)
        if answer is None:
            raise gone
        return answer

    async def stream(self, request: Request, call: Call) -> Events:
        """Goes elsewhere only while no event has been sent on."""
        way, sent = await self._way(request, call), False
        async with aclosing(self._streamed(way, request, call)) as events:
            async for event in events:
                sent = True
                yield event
        if sent:
            return
        self._refuse(way)
        try:
            async with aclosing(self._inner.stream(request, call)) as events:
                async for event in events:
                    sent = True
                    yield event
            return
        except Unavailable as error:
            if sent:
                raise
            rescue, gone = self._rescue(way, request, call, error), error
        async with aclosing(self._streamed(rescue, request, call)) as events:
            async for event in events:
                sent = True
                yield event
        if not sent:
            raise gone

    async def _there(self, way: _Way, request: Request, call: Call) -> Completion | None:
        """The answer of the first of the others that takes it; None: nobody does."""
        denied: FusionError | None = None
        for other in way.others:
            try:
                answer = await other.answerer.complete(replace(request, model=other.name), call)
            except _NOT_TAKEN as error:
                denied = _denied(error) or denied
            else:
                self._went()
                return self._signed(answer, way.expected_s)
        if denied is not None and way.refusal is not None:
            raise denied
        return None

    async def _streamed(self, way: _Way, request: Request, call: Call) -> Events:
        """What the first of the others that takes it says; nothing: nobody does."""
        denied: FusionError | None = None
        for other in way.others:
            asked, taken = replace(request, model=other.name), False
            try:
                async with aclosing(other.answerer.stream(asked, call)) as events:
                    async for event in events:
                        if not taken:
                            taken = True
                            self._went()
                        if isinstance(event, Done):
                            event = Done(self._signed(event.completion, way.expected_s))
                        yield event
            except _NOT_TAKEN as error:
                if taken:
                    raise
                denied = _denied(error) or denied
            else:
                return
        if denied is not None and way.refusal is not None:
            raise denied

    def _rescue(self, way: _Way, request: Request, call: Call, error: Unavailable) -> _Way:
        """Who may answer where the replicas went away under a request and no other took it in
        time: a node that died, the last of its model. Raises `error` where nobody was to blame but
        ourselves, or the others were asked before.

        Nothing was billed here, and nothing had come.
        """
        if way.others or isinstance(error, StoreUnavailable):
            raise error
        return _Way(self._worth(self._startup_s, request, call), self._startup_s)

    def _by_price(self, request: Request) -> list[Other]:
        return sorted(self._others, key=lambda other: other.usd(request))

    def _worth(self, expected_s: float, request: Request, call: Call) -> tuple[Other, ...]:
        """Who is worth its price for one that would wait so long here: the cheapest first."""
        limits, prompt_s = self._limits_of(call), self._prompt_s(request)
        return tuple(
            other
            for other in self._by_price(request)
            if overflow(expected_s, limits, other.usd(request), prompt_s) == "spill"
        )

    async def _way(self, request: Request, call: Call) -> _Way:
        count = await self._site.replicas()
        if count.running == 0:
            return await self._way_at_zero(request, call, count)
        room = places(count, self._max_ongoing, self._gateways)
        expected_s = self._workforce.wait_s(request, call, room)
        others = self._worth(expected_s, request, call)
        if overflow(expected_s, self._limits, prompt_s=self._prompt_s(request)) != "shed":
            return _Way(others, expected_s)
        full = Overloaded(
            f"Model '{self._name}' has {expected_s:.0f} s of work waiting before this.",
            retry_after_s=retry_after_s(expected_s, self._limits.ttft_s),
        )
        return _Way(others, expected_s, _Refusal("shed", full))

    async def _way_at_zero(self, request: Request, call: Call, count: Count) -> _Way:
        """Nobody serves: whoever is handed on makes Serve start a replica, whatever it costs."""
        place = self._workforce.wakes(call)
        if count.paid == 0 and (veto := await self._site.veto(place)) is not None:
            vetoed = Overloaded(
                f"Model '{self._name}' does not run, and the budget of all models does not pay "
                f"for a replica now. {veto.why}",
                retry_after_s=math.ceil(veto.wait_s),
            )
            # Batch work has time, and waits for money.
            others = tuple(
                other
                for other in self._by_price(request)
                if call.priority != "low" or other.usd(request) == 0
            )
            return _Way(others, self._startup_s, _Refusal("vetoed", vetoed))
        others = self._worth(self._startup_s, request, call)
        if others:
            self._wake(request, call)
        return _Way(others, self._startup_s)  # alone it waits for the start, and causes it

    def _refuse(self, way: _Way) -> None:
        """Raises the refusal, if it is one."""
        if way.refusal is not None:
            self._record.count(self._name, way.refusal.what)
            raise way.refusal.error

    def _prompt_s(self, request: Request) -> float:
        """Seconds that a replica reads it, once it has its turn."""
        return prompt_tokens(request) / self._prefill_tokens_per_s

    def _limits_of(self, call: Call) -> OverflowLimits:
        """Nobody waits for batch work, so it is never late, and no money buys it time."""
        return (
            replace(self._limits, late_usd=Decimal(0)) if call.priority == "low" else self._limits
        )

    def _wake(self, request: Request, call: Call) -> None:
        """Ask for a replica without making this request wait for it."""
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._asked(request, call))

    async def _asked(self, request: Request, call: Call) -> None:
        with suppress(FusionError):
            await self._workforce.count(request, call, within_s=3 * self._startup_s + 60)

    def _went(self) -> None:
        """Another model has taken a request of this one's. Whom it refuses is asked here, and
        counted as what is asked here."""
        self._workforce.missed += 1
        self._record.count(self._name, "spilled")

    def _signed(self, completion: Completion, expected_s: float) -> Completion:
        spilled: dict[str, Any] = {"model": self._name, "expected_s": round(expected_s, 1)}
        return replace(completion, extension={**completion.extension, "spilled_from": spilled})
