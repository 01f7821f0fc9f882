"""The rules at the entrance: what is asked of every request before anything answers it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from models.answerer import Answerer, Events
from models.call import Call
from models.messages import Completion, Request
from serve.control.control import Control
from serve.control.policed import passed
from serve.control.policy.catalog import Rule
from serve.control.policy.values import Event


class Entrance:
    """`inner` answers for every name of the catalog."""

    def __init__(self, inner: Answerer, rules: Sequence[Rule], control: Control) -> None:
        self._inner = inner
        self._rules = rules
        self._control = control

    async def complete(self, request: Request, call: Call) -> Completion:
        event = await self._admitted(request, call)
        try:
            return await self._inner.complete(event.request, call)
        finally:
            self._left(event)

    async def stream(self, request: Request, call: Call) -> Events:
        event = await self._admitted(request, call)
        try:
            async with aclosing(self._inner.stream(event.request, call)) as events:
                async for one in events:
                    yield one
        finally:
            self._left(event)

    async def _admitted(self, request: Request, call: Call) -> Event:
        event = Event("request", self._control.clock.now(), call, request, approved=call.approved)
        event = passed(await self._control.rule(self._rules, event)).event
        if request.messages and request.messages[-1].role == "tool":
            passed(await self._control.rule(self._rules, replace(event, phase="tool_result")))
        return event

    def _left(self, event: Event) -> None:
        if any(rule.concerns(event) for rule in self._rules):
            self._control.release(event)
