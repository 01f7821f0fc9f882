"""Who asks. Known at the door once, and carried by every request from there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from models.errors import Forbidden

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

#: What a key may do: ask models, decide approvals, change the installation.
Scope = Literal["use", "approve", "admin"]
EVERY_SCOPE: frozenset[Scope] = frozenset(("use", "approve", "admin"))


@dataclass(frozen=True, slots=True)
class Caller:
    """A key's owner; without keys, whoever can reach this machine's loopback."""

    project: str = "default"
    #: The key's public id.
    key: str | None = None
    scopes: frozenset[Scope] = EVERY_SCOPE
    #: Names that its requests may say; None for every name.
    models: tuple[str, ...] | None = None

    def require(self, scope: Scope) -> None:
        """Raises Forbidden. `admin` may do everything."""
        if not {scope, "admin"} & self.scopes:
            raise Forbidden(f"This key lacks the scope '{scope}'.")

    def may_ask(self, names: Iterable[str]) -> None:
        """Raises Forbidden if one of these model names is not this caller's to use."""
        self.require("use")
        for name in names:
            if self.models is not None and name not in self.models:
                raise Forbidden(
                    f"This key may not use '{name}'; it may use {', '.join(self.models)}.",
                    param="model",
                )


def caller(request: HTTPConnection) -> Caller:
    """Who made this request. The door's guard has put it there."""
    found = request.scope.get("state", {}).get("caller")
    return found if isinstance(found, Caller) else Caller()
