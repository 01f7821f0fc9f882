"""Work that runs beside a block of code and never outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from models.errors import FusionError
from serve.plans.run import Event


class Beside:
    """A task that runs beside the block, and ends with it."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = work

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._work)

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Tasks:
    """Tasks that end with the block, each of which puts its event in line."""

    def __init__(self, inbox: asyncio.Queue[Event | FusionError]) -> None:
        self._inbox = inbox
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Any) -> None:
        task = asyncio.create_task(self._carry_out(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def ended(self) -> None:
        """Once all that run now have ended."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _carry_out(self, work: Any) -> None:
        try:
            self._inbox.put_nowait(await work)
        except FusionError as error:
            self._inbox.put_nowait(error)
        except Exception as error:  # a bug of ours: the plan must not wait for ever
            self._inbox.put_nowait(FusionError(f"Internal error: {type(error).__name__}."))
            raise

    async def __aenter__(self) -> Tasks:
        return self

    async def __aexit__(self, *_: object) -> None:
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
