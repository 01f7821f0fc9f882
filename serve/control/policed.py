"""The rules in the way of every call to a model, by whatever way it comes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from models.answerer import Answerer, Events
from models.call import Call
from models.catalog import Catalog
from models.errors import (
    BadRequest,
    NotFound,
    Overloaded,
    TooLarge,
    Unavailable,
)
from models.messages import Completion, Done, Request, ToolCallDelta
from serve.control.asked import Asked, passed
from serve.control.control import Control
from serve.control.policy.catalog import Rule
from serve.control.policy.engine import Ruling
from serve.control.policy.values import Event
from serve.money import bound

#: After these nothing was begun, so nothing was spent.
_FREE = (BadRequest, NotFound, Overloaded, TooLarge, Unavailable)


class Policed:
    """`inner` answers for concrete models and their aliases, fallbacks included."""

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
        ruling = await self._control.rule(self._rules, event)
        return self._passed(ruling).event

    def _passed(self, ruling: Ruling) -> Ruling:
        try:
            return passed(ruling)
        except Asked as asked:
            # A fusion goes on without the panelist that had to ask. If it fails for that, the
            # entrance must know why.
            self._control.remember(ruling.event.call, asked)
            raise

    async def _answered(self, event: Event, completion: Completion) -> Completion:
        """The answer, counted, and its tool calls judged. Raises what rules say against them."""
        now = self._control.clock.now()
        said = replace(event, phase="response", at=now, completion=completion)
        ruling = await self._control.rule(self._rules, said)
        self._passed(ruling)
        for tool in completion.message.tool_calls:
            called = replace(said, phase="tool_call", tool=tool, completion=None)
            self._passed(await self._control.rule(self._rules, called))
        return completion

    def _broke(self, event: Event, error: BaseException, over: bool) -> None:
        """What it may have cost counts, unless nothing was begun. (Nothing is held any more, and so
        nothing counts twice, if only a rule objected to the answer.)"""
        if not any(rule.concerns(event) for rule in self._rules):
            return
        self._control.release(event, settle=over or not isinstance(error, _FREE))


def worst(catalog: Catalog, model: str, request: Request) -> int:
    """The most that the call can cost in nano-dollars, whichever of the model's stand-ins
    answers."""
    chain = (model, *map(catalog.model_behind, catalog.models[model].fallbacks))
    most = 0
    for name in dict.fromkeys(chain):
        one = catalog.models[name]
        if one.price is not None:
            entered = bound.input_tokens(request, one.image_tokens)
            output = request.sampling.max_tokens or one.max_output
            most = max(most, one.price.worst(entered, output))
    return most
