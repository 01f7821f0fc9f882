"""What Serve's controller shows, for pages that must answer also where it does not."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

log = logging.getLogger(__name__)

#: How old what is shown may be, and how long a controller that works takes at most, in seconds.
KEPT_S = 1.0
ANSWERS_S = 2.0


class Controller:
    """One look is under way for all who ask, in a thread of its own: the controller is asked
    without a deadline, and one that hangs would take a thread of everybody's for each.

    `ask` gives every application by its name, as Serve's status has it.
    """

    def __init__(self, ask: Callable[[], Mapping[str, Any]]) -> None:
        self._ask = ask
        self._thread = ThreadPoolExecutor(1, "controller")
        self._looking: asyncio.Task[None] | None = None
        self._seen: Mapping[str, Any] | None = None
        self._at = -KEPT_S

    async def applications(self) -> tuple[Mapping[str, Any] | None, bool]:
        """What was seen last (None: nothing yet), and whether that is how it is now."""
        if self._stale:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            await asyncio.wait({self._looking}, timeout=ANSWERS_S)
        return self._seen, not self._stale

    @property
    def _stale(self) -> bool:
        return self._seen is None or time.monotonic() - self._at > KEPT_S

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._seen = await loop.run_in_executor(self._thread, self._ask)
        except Exception:  # a controller that restarts
            log.warning("Serve's controller does not say what runs", exc_info=True)
        else:
            self._at = time.monotonic()
