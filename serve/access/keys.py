"""API keys as values: how one is made, written and recognised. Pure.

A key reads `fk_<public id>_<secret>`. Its secret has 256 random bits, so there is nothing to
guess, and a keyed SHA-256 is all that has to be kept of it: a slow password hash would cost a
tenth of a second a request and protect nothing more.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from models.errors import BadRequest, Unauthorized
from serve.access.caller import EVERY_SCOPE, Caller, Scope

_FORM = re.compile(r"fk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
#: The public id of the key that whoever owns the installation's files has.
OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Key:
    """What is known about a key. Times are seconds since the epoch."""

    id: str
    digest: str = field(repr=False)
    project: str = "default"
    name: str = ""
    scopes: frozenset[Scope] = frozenset(("use",))
    models: tuple[str, ...] | None = None
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    replaced_by: str | None = None

    def state(self, now: float) -> str:
        """`active`, `revoked` or `expired`. A revocation may lie ahead: a key that was rotated
        goes on for a while."""
        if self.revoked_at is not None and self.revoked_at <= now:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"

    def shown(self, now: float) -> dict[str, Any]:
        """What may be told about it."""
        return {
            "id": self.id,
            "name": self.name,
            "project": self.project,
            "scopes": sorted(self.scopes),
            "models": None if self.models is None else list(self.models),
            "created_at": int(self.created_at),
            "expires_at": None if self.expires_at is None else int(self.expires_at),
            "state": self.state(now),
            "replaced_by": self.replaced_by,
        }

    def caller(self, now: float) -> Caller:
        """Who holds this key. Raises Unauthorized if it is not good any more."""
        state = self.state(now)
        if state != "active":
            raise Unauthorized(f"The API key '{self.id}' is {state}.")
        return Caller(self.project, self.id, self.scopes, self.models)


def new() -> tuple[str, str]:
    """A new key: its public id, and the whole key to show once."""
    public = secrets.token_hex(6)
    return public, f"fk_{public}_{secrets.token_urlsafe(32)}"


def digest(pepper: bytes, key: str) -> str:
    """What is kept of a key. `pepper` is the installation's own secret."""
    return hmac.new(pepper, key.encode(), hashlib.sha256).hexdigest()


def matches(pepper: bytes, key: str, kept: str) -> bool:
    return hmac.compare_digest(digest(pepper, key), kept)


def operator_key(pepper: bytes) -> str:
    """The key of whoever can read the installation's secret, which is whoever runs it."""
    return f"fk_{OPERATOR}_{digest(pepper, OPERATOR)}"


def is_operators(pepper: bytes, key: str) -> bool:
    return hmac.compare_digest(operator_key(pepper).encode(), key.encode())


def public_id(key: str) -> str | None:
    """The id in a well-formed key."""
    found = _FORM.fullmatch(key)
    return found[1] if found else None


def bearer(authorization: str | None, x_api_key: str | None) -> str | None:
    """The key that a request carries, in OpenAI's header or in Anthropic's."""
    if x_api_key:
        return x_api_key.strip()
    scheme, _, value = (authorization or "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" and value.strip() else None


def scopes(names: Iterable[str]) -> frozenset[Scope]:
    """These scopes. Raises BadRequest for one that does not exist, or none at all."""
    given = set(names)
    if not given or not given <= EVERY_SCOPE:
        raise BadRequest(f"Scopes are {', '.join(sorted(EVERY_SCOPE))}.", param="scopes")
    return frozenset(scope for scope in EVERY_SCOPE if scope in given)


def cache_salt(pepper: bytes, project: str) -> str:
    """What keeps one project's prompts out of another's reach in an engine's prefix cache."""
    return digest(pepper, f"cache salt of {project}")[:32]
