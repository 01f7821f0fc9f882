"""The time that one call to a provider has, and what a failure of the network means."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import aiohttp
import httpx

from models.errors import DeadlineExceeded, FusionError, Unavailable, UpstreamError

T = TypeVar("T")

#: All that the client raises when the network fails.
NETWORK = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.StreamError,
    aiohttp.ClientError,
    OSError,
)


class Window:
    """The time that one call has, on the event loop's clock."""

    def __init__(self, model: str, host: str, seconds: float) -> None:
        self._model = model
        self._host = host
        self._seconds = seconds
        self._ends = asyncio.get_running_loop().time() + seconds

    async def wait(self, awaitable: Awaitable[T], at_most: float | None = None) -> T:
        """Its result, or our error. Around single awaits, never around a `yield`: there, the
        timeout would cancel whatever the stream's reader is doing at that moment."""
        ends = self._ends
        if at_most is not None:
            ends = min(ends, asyncio.get_running_loop().time() + at_most)
        try:
            async with asyncio.timeout_at(ends):
                return await awaitable
        except TimeoutError:
            failure: FusionError = DeadlineExceeded(
                f"Model '{self._model}' did not answer within {self._seconds:.1f} s."
            )
        except NETWORK as error:
            failure = self._network(error)
        # Outside the handler, so that the network's error, which knows the request's headers,
        # is not carried along as context.
        raise failure

    def _network(self, error: Exception) -> FusionError:
        reason = type(error.__cause__ or error).__name__
        if never_sent(error):
            return Unavailable(
                f"Cannot connect to {self._host}, the provider of model '{self._model}' ({reason})."
            )
        return UpstreamError(
            f"The connection to the provider of model '{self._model}' broke ({reason})."
        )


def never_sent(error: Exception) -> bool:
    """Whether this failure came before a byte of the request went out, so that repeating it
    cannot do anything twice.

    httpx-aiohttp calls every broken connection a ConnectTimeout, also one that broke while the
    provider was at work. Only aiohttp's own class, the cause, tells them apart.
    """
    cause = error.__cause__ or error
    if isinstance(cause, aiohttp.ClientError):
        return isinstance(
            cause,
            aiohttp.ClientConnectorError
            | aiohttp.ConnectionTimeoutError
            | aiohttp.ClientHttpProxyError,
        )
    return isinstance(
        error,
        httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol,
    )
