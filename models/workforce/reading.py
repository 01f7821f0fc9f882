"""Whose prompt a replica reads next.

Serve hands a replica as many requests as it works on at once, and an engine reads their prompts in
the order in which they come. Where prompts are long that is a line of many seconds, in which
everybody behind one who is late would be late as well. So the engine is given no more than what it
reads in a step, or in a small part of the time that is promised, and what it goes on with; the
others wait here, in the order of `turns`.

That is for streams: only they show when a prompt has been read, and only there somebody sees when
the first token comes. A whole answer is the engine's at once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from models.scaling import Scaling
from models.workforce.turns import Target, Ticket, Turns, target

Chunk = dict[str, Any]
# Of the time until a first token is late: what takes no longer may be more than a step's prompts,
# since a line so short makes hardly anybody late, and many prompts at once are read faster.
_SHORT = 0.25


class Reading:
    """The prompts of one replica. `at_once`: the tokens that its engine is given to read."""

    def __init__(
        self, promised: Target, at_once: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._turns = Turns(promised)
        self._at_once = at_once
        self._clock = clock
        #: Tokens of prompts that the engine has, and has not read.
        self._unread = 0.0
        self._waiting: list[tuple[Ticket, asyncio.Future[None]]] = []

    async def streamed(
        self, mine: Ticket, chunks: AsyncGenerator[Chunk, None]
    ) -> AsyncGenerator[Chunk, None]:
        """The same chunks, asked for when it is the turn of this prompt."""
        async with aclosing(chunks) as source:
            await self._turn(mine)
            reading = True
            try:
                async for chunk in source:
                    if reading:
                        reading = False
                        self._was_read(mine)
                    yield chunk
            finally:
                if reading:
                    self._was_read(mine)

    async def _turn(self, mine: Ticket) -> None:
        if not self._waiting and self._unread < self._at_once:
            self._unread += mine.prompt
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((mine, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was called in the same moment
                self._was_read(mine)
            raise

    def _was_read(self, mine: Ticket) -> None:
        self._unread -= mine.prompt
        self._waiting = [(one, turn) for one, turn in self._waiting if not turn.cancelled()]
        while self._waiting and self._unread < self._at_once:
            waiting = [one for one, _ in self._waiting]
            called, turn = self._waiting.pop(self._turns.next(waiting, self._clock()))
            self._unread += called.prompt
            turn.set_result(None)


def reading(scaling: Scaling | None) -> Reading:
    """That of a replica of a model that is scaled so. Where nothing is promised, nobody waits."""
    if scaling is None:
        return Reading(Target(), math.inf)
    replica = scaling.replica
    short = _SHORT * scaling.targets.ttft_s * replica.prefill_tokens_per_s
    return Reading(target(scaling), max(replica.prefill_chunk_tokens, short))
