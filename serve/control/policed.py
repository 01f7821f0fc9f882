"""The rules in the way of every call to a model, by whatever way it comes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from models.answerer import Answerer, Events
from models.call import Call
from models.catalog import Catalog
from models.errors import (
    AnswerDenied,
    BadRequest,
    NotFound,
    Overloaded,
    PolicyDenied,
    TooLarge,
    Unavailable,
)
from models.messages import Completion, Done, Request, ToolCallDelta
from models.spec import Hosted
from serve.control.asked import Asked, passed
from serve.control.control import Control
from serve.control.policy.catalog import Rule
from serve.control.policy.engine import Ruling
from serve.control.policy.values import Event
from serve.money import bound

#: After these nothing was begun, so nothing was spent.
_FREE = (BadRequest, NotFound, Overloaded, TooLarge, Unavailable)


class Policed:
    """`inner` answers for concrete models and their aliases. Who answers there in another model's
    place, a fallback or where there is room, does so behind `StandsIn`."""

    def __init__(
        self, inner: Answerer, catalog: Catalog, rules: Sequence[Rule], control: Control
    ) -> None:
        self._inner = inner
        self._catalog = catalog
        self._rules = rules
        self._control = control
        #: A stream's tool calls wait for their verdicts if anybody may object.
        self._judges_tools = any("tool_call" in rule.policy.phases for rule in rules)

    async def complete(self, request: Request, call: Call) -> Completion:
        event = await self._admitted(request, call)
        over = False
        try:
            completion = await self._inner.complete(event.request, call)
            over = True
            return await self._answered(event, completion)
        except BaseException as error:
            self._broke(event, error, over)
            raise

    async def stream(self, request: Request, call: Call) -> Events:
        event = await self._admitted(request, call)
        waiting: list[ToolCallDelta] = []
        over = False
        try:
            async with aclosing(self._inner.stream(event.request, call)) as events:
                async for one in events:
                    if isinstance(one, ToolCallDelta) and self._judges_tools:
                        waiting.append(one)
                        continue
                    if isinstance(one, Done):
                        over = True
                        one = Done(await self._answered(event, one.completion))
                        for delta in waiting:
                            yield delta
                    yield one
        except BaseException as error:
            self._broke(event, error, over)
            raise

    async def _admitted(self, request: Request, call: Call) -> Event:
        """The call as the rules let it go out. Raises what they say against it."""
        model = self._catalog.model_behind(request.model)
        event = Event(
            "model_call",
            self._control.clock.now(),
            call,
            replace(request, model=model),
            model=model,
            worst_nano_usd=worst(self._catalog, model, request),
            approved=call.approved,
        )
        passed = _passed(await self._control.rule(self._rules, event), self._control).event
        target = self._catalog.resolve(passed.request.model)
        if target is None or target.kind != "model":
            self._control.release(event)
            raise PolicyDenied(
                f"A policy has '{passed.request.model}' asked instead, and no model is called "
                "that. This request was not answered."
            )
        return passed

    async def _answered(self, event: Event, completion: Completion) -> Completion:
        """The answer, counted, and its tool calls judged. Raises what rules say against them."""
        now = self._control.clock.now()
        said = replace(event, phase="response", at=now, completion=completion)
        calls = (
            replace(said, phase="tool_call", tool=tool, completion=None)
            for tool in completion.message.tool_calls
        )
        try:
            for one in (said, *calls):
                _passed(await self._control.rule(self._rules, one), self._control)
        except PolicyDenied as denied:
            raise AnswerDenied(denied.message) from None
        return completion

    def _broke(self, event: Event, error: BaseException, over: bool) -> None:
        """What it may have cost counts, unless nothing was begun. (Nothing is held any more, and so
        nothing counts twice, if only a rule objected to the answer.)"""
        if not any(rule.concerns(event) for rule in self._rules):
            return
        self._control.release(event, settle=over or not isinstance(error, _FREE))


class StandsIn:
    """`inner`, the model `name`, where it answers in another model's place: what that one may read
    is perhaps nothing for this one.

    Asked again are the rules that count nothing. Those that count have counted this call, at the
    dearest of all that may answer.
    """

    def __init__(
        self,
        inner: Answerer,
        name: str,
        catalog: Catalog,
        rules: Sequence[Rule],
        control: Control,
    ) -> None:
        self._inner = inner
        self._name = name
        self._catalog = catalog
        self._rules = rules
        self._control = control

    async def complete(self, request: Request, call: Call) -> Completion:
        return await self._inner.complete(await self._allowed(request, call), call)

    async def stream(self, request: Request, call: Call) -> Events:
        allowed = await self._allowed(request, call)
        async with aclosing(self._inner.stream(allowed, call)) as events:
            async for event in events:
                yield event

    async def _allowed(self, request: Request, call: Call) -> Request:
        """What it may read. Raises what the rules say against its being asked."""
        event = Event(
            "model_call",
            self._control.clock.now(),
            call,
            replace(request, model=self._name),
            model=self._name,
            worst_nano_usd=_worst(self._catalog, self._name, request),
            approved=call.approved,
        )
        looking = [one for one in self._rules if not one.policy.counters(event)]
        allowed = _passed(await self._control.rule(looking, event), self._control).event.request
        # It is this model that answers, whatever a rule would rather ask.
        return replace(allowed, model=self._name)


def _passed(ruling: Ruling, control: Control) -> Ruling:
    try:
        return passed(ruling)
    except Asked as asked:
        # A fusion goes on without the panelist that had to ask, and a model without the one that
        # would answer in its place. If that fails, the entrance must know why.
        control.remember(ruling.event.call, asked)
        raise


def worst(catalog: Catalog, model: str, request: Request) -> int | None:
    """The most that the call can cost in nano-dollars, whoever answers in the model's place. None
    where one of them has no price."""
    spec = catalog.models[model]
    scaling = spec.scaling if isinstance(spec, Hosted) else None
    others = (*spec.fallbacks, *(scaling.spill if scaling else ()))
    chain = dict.fromkeys((model, *map(catalog.model_behind, others)))
    known = [cost for name in chain if (cost := _worst(catalog, name, request)) is not None]
    return max(known) if len(known) == len(chain) else None


def _worst(catalog: Catalog, model: str, request: Request) -> int | None:
    """Of this very model."""
    spec = catalog.models[model]
    if spec.price is None:
        return None
    entered = bound.input_tokens(request, spec.image_tokens)
    # More than the model can write is cut to that (`Fit`).
    written = min(request.sampling.max_tokens or spec.max_output, spec.max_output)
    return spec.price.worst(entered, written)
