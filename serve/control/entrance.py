"""The rules at the entrance, and what becomes of a request that a person must allow first.

A caller who waits (`call.waits_s`) gets the answer once somebody has decided. Everybody else gets
a 402 with the approval's id, and the request goes on by itself when it is approved.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from models.answerer import Answerer, Events, as_events
from models.call import Call
from models.catalog import Catalog
from models.errors import (
    ApprovalNeeded,
    Cancelled,
    Conflict,
    FusionError,
    PolicyDenied,
    UpstreamError,
)
from models.messages import (
    Completion,
    PlanOptions,
    Progress,
    Request,
)
from serve.control import neutral
from serve.control.asked import Asked, passed
from serve.control.control import Control
from serve.control.policy.catalog import Rule
from serve.control.policy.values import Event


class Entrance:
    """`inner` answers for every name of the catalog."""

    def __init__(
        self, inner: Answerer, catalog: Catalog, rules: Sequence[Rule], control: Control
    ) -> None:
        self._inner = inner
        self._catalog = catalog
        self._rules = rules
        self._control = control

    async def complete(self, request: Request, call: Call) -> Completion:
        until = self._control.clock.now() + call.waits_s
        while True:
            try:
                return await self._complete(request, call)
            except FusionError as error:
                if (asked := self._asked(error, call)) is None:
                    raise
            request = _rest(request, asked)
            if (parked := await self._park(asked, request, call)) is None:
                continue
            answer = await self._decided(parked, until, call)
            if answer is not None:
                return answer

    async def stream(self, request: Request, call: Call) -> Events:
        until = self._control.clock.now() + call.waits_s
        while True:
            said = False
            try:
                async with aclosing(self._stream(request, call)) as events:
                    async for event in events:
                        said = said or not isinstance(event, Progress)
                        yield event
                return
            except FusionError as error:
                if (asked := self._asked(error, call)) is None:
                    raise
            request = _rest(request, asked)
            # What was said cannot be taken back, so it cannot be said again.
            if (parked := await self._park(asked, request, call)) is None:
                if said:
                    raise Conflict("A person has allowed this just now. Ask again.")
                continue
            told, _ = parked
            yield Progress("approval.required", {"id": told.approval, "message": told.message})
            if said:
                raise told
            answer = await self._decided(parked, until, call)
            if answer is not None:
                for event in as_events(answer):
                    yield event
                return

    async def _complete(self, request: Request, call: Call) -> Completion:
        event = await self._admitted(request, call)
        try:
            return await self._inner.complete(event.request, call)
        finally:
            self._left(event)

    async def _stream(self, request: Request, call: Call) -> Events:
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
        try:
            if request.messages and request.messages[-1].role == "tool":
                passed(await self._control.rule(self._rules, replace(event, phase="tool_result")))
        except BaseException:
            self._left(event)
            raise
        return event

    def _left(self, event: Event) -> None:
        if any(rule.concerns(event) for rule in self._rules):
            self._control.release(event)

    def _asked(self, error: FusionError, call: Call) -> Asked | None:
        """What a person must allow, if it is that what the request failed for."""
        inside = self._control.recall(call)
        if isinstance(error, Asked):
            return error
        if inside is None or isinstance(error, Cancelled):
            return None
        inside.plan = error.plan
        return inside

    async def _park(
        self, asked: Asked, request: Request, call: Call
    ) -> tuple[ApprovalNeeded, bool] | None:
        if call.waits_s:
            # Whoever waits holds the key meanwhile, and keeps the answer under it.
            call = replace(call, idempotency_key=None)
        return await self._control.parking.park(asked, request, call, self._catalog)

    async def _decided(
        self, parked: tuple[ApprovalNeeded, bool], until: float, call: Call
    ) -> Completion | None:
        """The parked request's answer; None where somebody else's request was parked, so that this
        one may be tried again. Raises what is told a caller who does not wait."""
        told, mine = parked
        if not call.waits_s:
            raise told
        seen = await self._control.parking.decided(told.approval, until)
        if seen["state"] != "approved":
            why = seen["error"]["message"] if seen["error"] else "Nobody decided in time."
            raise PolicyDenied(f"{told.message} {why}")
        if not mine:
            return None
        if seen["run"] == "failed":
            raise UpstreamError(f"The approved request failed: {seen['error']['message']}")
        return neutral.completion(seen["answer"])


def _rest(request: Request, asked: Asked) -> Request:
    """What is still to be done of a request: of a plan, nothing that was done already."""
    return replace(request, plan=PlanOptions(resume=asked.plan)) if asked.plan else request
