"""Stops asking what does not answer, and looks now and then whether it does again."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from models.answerer import Answerer, Clock, Events, SystemClock
from models.call import Call
from models.errors import (
    AccountRefused,
    DeadlineExceeded,
    StoreUnavailable,
    Unavailable,
    UpstreamError,
)
from models.messages import Completion, Done, Request
from models.wire import ProviderForbids
from models.wrappers.limit import LimiterUnreachable

#: How a call ended, as far as it says something about the model. `neither`: it says nothing
#: (the request was wrong, the caller went away, every place was taken, time ran out). `refused`:
#: the provider does not take our key or our money, which asking again does not mend.
Outcome = Literal["success", "failure", "refused", "timeout", "neither"]


@dataclass(slots=True)
class BreakerState:
    """Closed, open, or half-open with one probe. Pure: it is told the time, in seconds.

    Opens after `threshold` failures in a row, and at once when refused. The n-th pause in a row is
    `pause_s` · 2ⁿ⁻¹, at most `longest_s`, and `refused_s` after a refusal; after it one call is let
    through, whose outcome closes or opens again.
    """

    name: str = "model"
    threshold: int = 5
    pause_s: float = 2.0
    longest_s: float = 120.0
    refused_s: float = 300.0
    #: What the provider's refusal says to check; empty when it has not refused.
    refusal: str = ""
    _failures: int = 0
    _openings: int = 0
    _open_until: float = 0.0
    _probing: bool = False
    #: Grows with each change of state, so that an answer to a call from before says nothing.
    _era: int = field(default=0)

    def admit(self, now: float) -> int:
        """A ticket for `ended`. While open raises Unavailable with `retry_after_s`, or the
        refusal that opened it."""
        if self._openings:
            wait = self._open_until - now
            if wait > 0 or self._probing:
                if self.refusal:
                    raise AccountRefused(self.refusal)
                raise Unavailable(
                    f"'{self.name}' failed several times in a row and is not asked for a while.",
                    retry_after_s=max(wait, 1.0),
                )
            self._probing = True
        return self._era

    def ended(self, ticket: int, outcome: Outcome, now: float, refusal: str = "") -> None:
        """Hear how the call with this ticket ended."""
        if ticket != self._era:
            return
        probe, self._probing = self._probing, False
        if outcome == "success":
            self._failures = 0
            if probe:
                self._openings = 0
                self.refusal = ""
                self._era += 1
        elif outcome == "refused":
            self.refusal = refusal
            self._open(now)
        elif outcome == "failure" or (probe and outcome == "timeout"):
            self._failures += 1
            if probe:
                self.refusal = ""
            if probe or self._failures >= self.threshold:
                self._open(now)

    def _open(self, now: float) -> None:
        # Capped, because two to the power of a long outage is no float.
        pause = min(self.pause_s * 2 ** min(self._openings, 30), self.longest_s)
        self._open_until = now + (self.refused_s if self.refusal else pause)
        self._openings += 1
        self._failures = 0
        self._era += 1

    def standing(self, now: float) -> dict[str, Any]:
        """What a health page shows."""
        if not self._openings:
            return {"status": "ok"}
        ask_in = {"asked_again_in_s": round(max(0.0, self._open_until - now), 1)}
        if self.refusal:
            return {"status": "refused", "why": self.refusal, **ask_in}
        return {"status": "failing", "why": "It failed several times in a row.", **ask_in}


class Breaker:
    """`inner` behind a circuit breaker. Only Unavailable and UpstreamError count against it;
    AccountRefused takes the model out at once."""

    def __init__(
        self, inner: Answerer, state: BreakerState | None = None, clock: Clock | None = None
    ) -> None:
        self._inner = inner
        self._state = state or BreakerState()
        self._clock = clock or SystemClock()

    async def complete(self, request: Request, call: Call) -> Completion:
        ticket = self._state.admit(self._clock.now())
        outcome: Outcome = "neither"
        refusal = ""
        try:
            completion = await self._inner.complete(request, call)
            outcome = "success"
            return completion
        except Exception as error:
            outcome, refusal = _outcome(error), str(error)
            raise
        finally:
            self._state.ended(ticket, outcome, self._clock.now(), refusal)

    async def stream(self, request: Request, call: Call) -> Events:
        ticket = self._state.admit(self._clock.now())
        outcome: Outcome = "neither"
        refusal = ""
        try:
            async with aclosing(self._inner.stream(request, call)) as events:
                async for event in events:
                    if isinstance(event, Done):
                        outcome = "success"
                    yield event
        except Exception as error:
            outcome, refusal = _outcome(error), str(error)
            raise
        finally:
            self._state.ended(ticket, outcome, self._clock.now(), refusal)


#: Ours, or the matter of one request: no reason to ask the model no more.
_NOT_THE_MODEL = (StoreUnavailable, LimiterUnreachable, ProviderForbids)


def _outcome(error: Exception) -> Outcome:
    if isinstance(error, AccountRefused):
        return "refused"
    if isinstance(error, _NOT_THE_MODEL):
        return "neither"
    if isinstance(error, Unavailable | UpstreamError):
        return "failure"
    return "timeout" if isinstance(error, DeadlineExceeded) else "neither"
