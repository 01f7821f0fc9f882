"""The gateways as somebody to ask, by their handle."""

from __future__ import annotations

import asyncio
from typing import Any

from models.errors import FusionError
from models.workforce.answerer import ray_errors
from serve.jobs.asking import Ask, Reply

#: A gateway that is being replaced is waited for.
_TRIES = 30
_PAUSE_S = 2.0


class GatewayAsker:
    """Serve chooses the replica of each message, so more gateways take more of the work."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def ask_many(self, asks: list[Ask]) -> list[Reply]:
        with ray_errors("the gateway"):
            response = self._handle.ask_many.remote(asks)
            try:
                replies: list[Reply] = await response
                return replies
            except BaseException:
                response.cancel()
                raise

    async def stands_for(self, names: list[str]) -> list[str]:
        for _ in range(_TRIES):
            try:
                with ray_errors("the gateway"):
                    found: list[str] = await self._handle.stands_for.remote(names)
                    return found
            except FusionError:
                await asyncio.sleep(_PAUSE_S)
        with ray_errors("the gateway"):
            last: list[str] = await self._handle.stands_for.remote(names)
            return last
