"""Ends the streams of callers who would not be let in any more. One task for all streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from models.errors import FusionError, Unauthorized
from serve.access.caller import Caller
from serve.gateway.streams import Feed

log = logging.getLogger(__name__)

#: How often each caller with an open stream is looked at.
STILL_S = 1.0


@dataclass(slots=True)
class Watch:
    #: Whether a caller would still be let in. Raises where nobody can tell.
    still: Callable[[Caller], Awaitable[bool]]
    _feeds: dict[Caller, set[Feed]] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    def add(self, feed: Feed, caller: Caller) -> None:
        self._feeds.setdefault(caller, set()).add(feed)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())

    def drop(self, feed: Feed, caller: Caller) -> None:
        feeds = self._feeds.get(caller, set())
        feeds.discard(feed)
        if not feeds:
            self._feeds.pop(caller, None)
        if not self._feeds and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(STILL_S)
            for caller in tuple(self._feeds):
                if (why := await self._why_not(caller)) is not None:
                    for feed in self._feeds.get(caller, ()):
                        feed.end(why)

    async def _why_not(self, caller: Caller) -> FusionError | None:
        try:
            if await self.still(caller):
                return None
        except FusionError as error:
            return error
        except Exception:
            # One caller's trouble must not blind the watch for the others.
            log.exception("a caller could not be looked at")
            return None
        return Unauthorized("The API key of this stream is not good any more.")
