"""Holds a permit while a call is under way."""

from __future__ import annotations

from contextlib import aclosing
from typing import Protocol

from models.answerer import Answerer, Events
from models.call import Call
from models.messages import Completion, Request


class Turnstile(Protocol):
    """Something to wait at, such as `models.flagship.account.AccountLimit`."""

    async def acquire(self, call: Call) -> None:
        """Returns with one permit, or raises one of our errors without it."""
        ...

    def release(self) -> None: ...


class Limit:
    """`inner` with one permit around each call, given back however the call ends.

    A stream holds its permit from its first event being asked for until it ends or is closed.
    """

    def __init__(self, inner: Answerer, permits: Turnstile) -> None:
        self._inner = inner
        self._permits = permits

    async def complete(self, request: Request, call: Call) -> Completion:
        await self._permits.acquire(call)
        try:
            return await self._inner.complete(request, call)
        finally:
            self._permits.release()

    async def stream(self, request: Request, call: Call) -> Events:
        await self._permits.acquire(call)
        try:
            async with aclosing(self._inner.stream(request, call)) as events:
                async for event in events:
                    yield event
        finally:
            self._permits.release()
