"""Asks the next one when one cannot answer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from models.answerer import Answerer, Clock, Events, SystemClock
from models.call import Call
from models.errors import (
    ApprovalNeeded,
    BadRequest,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    PolicyDenied,
    Unavailable,
    UpstreamError,
)
from models.messages import Completion, Done, Request
from models.values import changed

#: Failures of one model that say nothing about the next.
_PASSING = (Unavailable, UpstreamError, Overloaded, DeadlineExceeded)
#: A stand-in that cannot take the request, or must not read it.
_UNFIT = (BadRequest, PolicyDenied, ApprovalNeeded)


class Fallback:
    """The first of `answerers`, in their order, that answers.

    The completion's `model` says who did, and where it was not the first, its extension's
    `fallback_from` says who was asked before and why they did not answer: a list of
    `{"model", "code", "message"}`. Raises the last one's error if none answers.
    """

    def __init__(self, answerers: Mapping[str, Answerer], clock: Clock | None = None) -> None:
        if not answerers:
            raise ValueError("a fallback needs at least one answerer")
        self._answerers = dict(answerers)
        self._clock = clock or SystemClock()

    async def complete(self, request: Request, call: Call) -> Completion:
        run = self._run(call)
        for name, inner in self._answerers.items():
            try:
                completion = await inner.complete(_asking(request, name), call)
            except _PASSING as error:
                if not run.goes_on(name, error):
                    raise run.last(error) from None
            except _UNFIT as error:
                run.passes_over(name, error)
            else:
                return run.signed(completion)
        raise run.last(run.first)

    async def stream(self, request: Request, call: Call) -> Events:
        """Goes on to the next only while no event has been sent on."""
        run = self._run(call)
        sent = False
        for name, inner in self._answerers.items():
            try:
                async with aclosing(inner.stream(_asking(request, name), call)) as events:
                    async for event in events:
                        sent = True
                        if isinstance(event, Done):
                            event = Done(run.signed(event.completion))
                        yield event
            except _PASSING as error:
                if sent:
                    raise
                if not run.goes_on(name, error):
                    raise run.last(error) from None
            except _UNFIT as error:
                run.passes_over(name, error)
            else:
                return
        raise run.last(run.first)

    def _run(self, call: Call) -> _Run:
        return _Run(len(self._answerers), call.deadline, self._clock)


@dataclass(slots=True)
class _Run:
    """Who failed so far in one call."""

    _left: int
    _deadline: float | None
    _clock: Clock
    _failed: list[dict[str, Any]] = field(default_factory=list)
    #: What the model that was asked for said: the failure that counts when nobody answers.
    first: FusionError = field(default_factory=lambda: FusionError("nobody was asked"))

    def goes_on(self, name: str, error: FusionError) -> bool:
        """Take down that `name` failed; whether to ask the next one."""
        self._left -= 1
        if not self._failed:
            self.first = error
        in_time = self._deadline is None or self._clock.now() < self._deadline
        failure = {"model": name, "code": error.code, "message": error.message}
        self._failed.append(failure)
        return self._left > 0 and in_time

    def passes_over(self, name: str, error: FusionError) -> None:
        """Take down that a stand-in cannot take the request; raise if it was the first asked.

        A request that is too long for a small stand-in is not the caller's mistake, and one that
        the rules do not let it read was right for the model that was asked for.
        """
        if not self._failed:
            raise error
        self.goes_on(name, error)

    def last(self, error: FusionError) -> FusionError:
        """This error of the last one asked, saying who else failed."""
        if len(self._failed) == 1:
            return error
        before = ", ".join(f"{f['model']} ({f['code']})" for f in self._failed[:-1])
        return type(error)(
            f"{error.message} Asked before and failed: {before}.",
            param=error.param,
            retry_after_s=error.retry_after_s,
        )

    def signed(self, completion: Completion) -> Completion:
        if not self._failed:
            return completion
        inner = completion.extension.get("fallback_from", [])
        return changed(
            completion,
            extension={**completion.extension, "fallback_from": [*self._failed, *inner]},
        )


def _asking(request: Request, name: str) -> Request:
    return request if request.model == name else changed(request, model=name)
