"""Says who stands at the door. What it knows of a key is at most half a second old."""

from __future__ import annotations

from dataclasses import dataclass, field

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
        now = self.clock.now()
        at, known = self._kept.get(public, (float("-inf"), None))
        if not 0 <= now - at < KEPT_S:
            known = await self.book.find(public)
            if len(self._kept) >= _MOST:
                self._kept.clear()
            self._kept[public] = (now, known)
        return known

    async def _is_closed(self) -> bool:
        """Whether a key was ever made. Once so, for ever so."""
        now = self.clock.now()
        if not self._closed and not 0 <= now - self._closed_at < KEPT_S:
            self._closed = await self.book.any()
            self._closed_at = now
        return self._closed
