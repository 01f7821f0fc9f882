"""Who asks, within what: the context that travels with every request to whatever answers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal

from models.errors import DeadlineExceeded
from models.messages import StageRole
from models.values import changed


def new_id(prefix: str) -> str:
    """A public id such as `req_9f2c…`: 96 random bits, so nobody can guess a neighbour's."""
    return f"{prefix}_{os.urandom(12).hex()}"


@dataclass(frozen=True)
class Call:
    """The circumstances of one call.

    `deadline` is a point on the clock of `time.time()`, in seconds, so that it keeps its
    meaning when the call moves to another process of the cluster; None means no limit.
    `cost_cap_nano_usd` bounds this call and everything under it.
    """

    id: str = field(default_factory=lambda: new_id("req"))
    #: The id of the client's request that this call works for; empty for that request itself.
    request: str = ""
    role: StageRole = "answer"
    project: str = "default"
    key: str | None = None
    session: str | None = None
    job: str | None = None
    deadline: float | None = None
    cost_cap_nano_usd: int | None = None
    idempotency_key: str | None = None
    fusion_depth: int = 0
    #: Seconds that the caller waits where a person must allow the request first.
    waits_s: float = 0.0
    #: It was parked and goes on now, perhaps after it was begun already.
    resumed: bool = False
    #: Policies whose ask a person has approved for this request.
    approved: frozenset[str] = frozenset()
    #: Low: behind whatever a person waits for.
    priority: Literal["normal", "low"] = "normal"
    #: The caller's own words about the request, kept and never interpreted.
    metadata: tuple[tuple[str, str], ...] = ()

    def child(self, role: StageRole, **changes: Any) -> Call:
        """The same circumstances for an inner call, with an id of its own."""
        return changed(
            self,
            id=new_id("call"),
            request=self.request or self.id,
            role=role,
            idempotency_key=None,
            **changes,
        )

    def remaining_s(self, now: float) -> float | None:
        """Seconds left at `now`, or None without a deadline. Raises DeadlineExceeded at zero."""
        if self.deadline is None:
            return None
        left = self.deadline - now
        if left <= 0:
            raise DeadlineExceeded("The deadline of this request has passed.")
        return left
