"""Repeats what may be repeated."""

from __future__ import annotations

import random
from contextlib import aclosing

from models.answerer import Answerer, Clock, Events, SystemClock
from models.call import Call
from models.errors import FusionError
from models.messages import Completion, Request

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0


class Retry:
    """`inner`, tried up to `attempts` times while its errors are `safe_to_repeat`.

    The pause before the n-th repetition is uniform between zero and `FIRST_PAUSE_S` · 2ⁿ⁻¹ (full
    jitter), at most `LONGEST_PAUSE_S`, and never less than the error asks for. A pause that does
    not end before the deadline, or an error that asks for more than the longest one, ends the
    attempts: whoever stands outside may know a better place to ask.
    """

    def __init__(
        self,
        inner: Answerer,
        *,
        attempts: int = 3,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._inner = inner
        self._attempts = attempts
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311  # jitter guards no secret

    async def complete(self, request: Request, call: Call) -> Completion:
        attempt = 1
        while True:
            try:
                return await self._inner.complete(request, call)
            except FusionError as error:
                pause = self._pause(error, attempt, call)
                if pause is None:
                    raise
            await self._clock.sleep(pause)
            attempt += 1

    async def stream(self, request: Request, call: Call) -> Events:
        """Repeated only while no event has been sent on."""
        attempt = 1
        sent = False
        while True:
            try:
                async with aclosing(self._inner.stream(request, call)) as events:
                    async for event in events:
                        sent = True
                        yield event
                return
            except FusionError as error:
                pause = None if sent else self._pause(error, attempt, call)
                if pause is None:
                    raise
            await self._clock.sleep(pause)
            attempt += 1

    def _pause(self, error: FusionError, attempt: int, call: Call) -> float | None:
        """Seconds to wait before the next attempt; None if there is to be none."""
        if not error.safe_to_repeat or attempt >= self._attempts:
            return None
        asked = error.retry_after_s or 0.0
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))
        pause = max(asked, self._rng.uniform(0, longest))
        late = call.deadline is not None and self._clock.now() + pause >= call.deadline
        return None if late or asked > LONGEST_PAUSE_S else pause
