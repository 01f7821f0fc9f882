"""What a replica has done since it started: what a scaling rule looks at, beside queues."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from models.workforce.turns import TICKET, Ticket

Chunk = dict[str, Any]
#: In a request's body: how many requests a gateway sent to another model since it last asked here.
ELSEWHERE = "fusion_elsewhere"


class Totals:
    """Running totals. Tokens count when their request is answered, as the engine reports them.

    ttft_s: seconds until a first token is late, as seen here; the wait before this replica is not.
    """

    def __init__(self, ttft_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttft_s = ttft_s
        self._clock = clock
        self._sums = dict.fromkeys(
            (
                *("answered", "prompt_tokens", "generated_tokens", "first_tokens", "late"),
                *("elsewhere", "asked", "patient"),
            ),
            0.0,
        )

    def as_stats(self) -> dict[str, float]:
        """For Serve's `record_autoscaling_stats`."""
        return dict(self._sums)

    def noticed(self, body: Chunk) -> Chunk:
        """The request without what the gateway wrote on it: how many it had to send elsewhere,
        and whose turn it was."""
        self._sums["elsewhere"] += body.get(ELSEWHERE, 0)
        self._sums["asked"] += 1
        self._sums["patient"] += Ticket(*body.get(TICKET, ())).low
        return {key: value for key, value in body.items() if key not in (ELSEWHERE, TICKET)}

    def answered(self, answer: Chunk) -> None:
        """A whole answer was given."""
        usage = answer.get("usage") or {}
        self._sums["answered"] += 1
        self._sums["prompt_tokens"] += usage.get("prompt_tokens") or 0
        self._sums["generated_tokens"] += usage.get("completion_tokens") or 0

    async def streamed(self, chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
        """The same chunks, counted. An answer that is cut off counts with what it had reported."""
        began, last, first = self._clock(), Chunk(), True
        try:
            async with aclosing(chunks) as source:
                async for chunk in source:
                    if first:
                        first = False
                        self._sums["first_tokens"] += 1
                        self._sums["late"] += self._clock() - began > self._ttft_s
                    last = chunk if chunk.get("usage") else last
                    yield chunk
        finally:
            self.answered(last)
