"""Says who stands at the door. What it knows of a key is at most half a second old."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from starlette.requests import HTTPConnection

from models.answerer import Clock
from models.errors import Unauthorized
from serve.access import keys
from serve.access.book import KeyBook
from serve.access.caller import Caller
from serve.access.keys import Key

#: How long a key that was looked up is believed.
KEPT_S = 0.5
#: Keys kept in memory; past that all are looked up anew.
_MOST = 10_000


@dataclass(slots=True)
class Guard:
    """`local` says that only this machine can reach the server. Without any key such a server
    is open; one that strangers can reach never is.

    A store that does not answer lets nobody in: raises StoreUnavailable.
    """

    book: KeyBook
    pepper: bytes = field(repr=False)
    local: bool
    clock: Clock
    _kept: dict[str, tuple[float, Key | None]] = field(default_factory=dict)
    _closed: bool = False
    _closed_at: float = float("-inf")
    #: Who asks the store about a key; many who come at once wait for the one who asks.
    _asking: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def __call__(self, request: HTTPConnection) -> Caller:
        given = keys.bearer(request.headers.get("authorization"), request.headers.get("x-api-key"))
        return await self.admit(given)

    async def admit(self, given: str | None) -> Caller:
        """The caller with this key. Raises Unauthorized."""
        if self.local and not await self._is_closed():
            return Caller()
        if given is None:
            raise Unauthorized(
                "No API key. Send it as 'Authorization: Bearer fk_...'; "
                "the operator makes one with: fusion keys create"
            )
        if keys.is_operators(self.pepper, given):
            return Caller(key=keys.OPERATOR)
        public = keys.public_id(given)
        known = await self._find(public) if public is not None else None
        if known is None or not keys.matches(self.pepper, given, known.digest):
            raise Unauthorized("This API key is not known here.")
        return known.caller(self.clock.now())

    async def still(self, caller: Caller) -> bool:
        """Whether who was let in would be let in now: a stream asks while it flows."""
        if caller.key is None:
            return self.local and not await self._is_closed()
        if caller.key == keys.OPERATOR:
            return True
        known = await self._find(caller.key)
        return known is not None and known.state(self.clock.now()) == "active"

    async def _find(self, public: str) -> Key | None:
        if (found := self._known(public)) is None:
            async with self._turn(public):
                if (found := self._known(public)) is None:
                    found = (self.clock.now(), await self.book.find(public))
                    if len(self._kept) >= _MOST:
                        self._kept.clear()
                    self._kept[public] = found
        return found[1]

    def _known(self, public: str) -> tuple[float, Key | None] | None:
        """What was found lately and when; None where the store must be asked."""
        found = self._kept.get(public)
        return found if found is not None and self._is_recent(found[0]) else None

    async def _is_closed(self) -> bool:
        """Whether a key was ever made. Once so, for ever so."""
        if not (self._closed or self._is_recent(self._closed_at)):
            async with self._turn(""):
                if not (self._closed or self._is_recent(self._closed_at)):
                    asked = self.clock.now()
                    self._closed = await self.book.any()
                    self._closed_at = asked
        return self._closed

    def _is_recent(self, at: float) -> bool:
        return 0 <= self.clock.now() - at < KEPT_S

    def _turn(self, public: str) -> asyncio.Lock:
        return self._asking.setdefault(public, asyncio.Lock())
