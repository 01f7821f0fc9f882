"""A stream of events on its way to a client that may be slow, silent or gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from models.answerer import Events
from models.errors import DeadlineExceeded, FusionError, UpstreamError
from models.messages import Event

log = logging.getLogger(__name__)

#: Called once when a streamed response is over, however it ended.
Ended = Callable[[], Awaitable[None]]


class EventStream(StreamingResponse):
    """Server-sent events, whose end is noticed however it comes: also when the client is gone
    before the first byte, where the body's own `finally` would never run."""

    def __init__(self, body: AsyncGenerator[bytes, None], ended: Ended) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(body, media_type="text/event-stream", headers=headers)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._ended()


class Feed:
    """Reads a stream of events in one task, so that its reader can wait with a time limit.

    After `seconds` the stream is closed, whether or not somebody reads: a client that has
    stopped reading must not hold a model for ever.
    """

    def __init__(self, events: Events, seconds: float | None) -> None:
        # Bounded: an engine must not run ahead of a client that reads slowly.
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(64)
        self._end: FusionError = UpstreamError("The answer broke off before its end.")
        self._task = asyncio.create_task(self._pump(events))
        self._timer = None
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    async def _pump(self, events: Events) -> None:
        try:
            async for event in events:
                await self._queue.put(event)
        except FusionError as error:
            self._end = error
        except Exception as error:  # a bug of ours: the client must not hang on it
            log.exception("a stream failed")
            self._end = FusionError(f"Internal error: {type(error).__name__}.")
        finally:
            await events.aclose()
            if not self._queue.full():
                self._queue.put_nowait(None)  # wakes a reader that waits

    def _expire(self) -> None:
        self.end(DeadlineExceeded("The deadline of this request has passed."))

    def end(self, why: FusionError) -> None:
        """Close the stream now; its reader hears why."""
        if not self._task.done():
            self._end = why
            self._task.cancel()

    async def next(self, timeout_s: float) -> Event | None:
        """The next event, or None when none came in time. Raises what ended the stream."""
        if self._queue.empty():
            if self._task.done():
                raise self._end
            try:
                async with asyncio.timeout(timeout_s):
                    event = await self._queue.get()
            except TimeoutError:
                return None
        else:
            event = self._queue.get_nowait()
        if event is None:
            raise self._end
        return event

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
