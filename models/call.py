"""Who asks, within what: the context that travels with every request to whatever answers."""

from __future__ import annotations

import os
from dataclasses import field
from typing import Literal

from models.errors import DeadlineExceeded
from models.messages import StageRole
from models.values import changed, value

#: Random words in stock. A fusion takes fourteen, and to ask the system for each took four
#: hundredths of all that it costs.
_drawn: list[str] = []
# A child would give its parent's once more.
os.register_at_fork(after_in_child=_drawn.clear)


def random_digits() -> str:
    """24 hexadecimal digits: 96 random bits, so nobody can guess the next."""
    while True:
        try:
            return _drawn.pop()
        except IndexError:
            digits = os.urandom(64 * 12).hex()
            _drawn.extend(digits[at : at + 24] for at in range(0, len(digits), 24))


def new_id(prefix: str) -> str:
    """A public id such as `req_9f2c…`."""
    return f"{prefix}_{random_digits()}"


@value()
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
    #: When it came to a model that may move it from place to place; None: it stays where it is.
    came: float | None = None
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

    def child(self, role: StageRole, deadline: float | None = None) -> Call:
        """The same circumstances for an inner call: an id of its own, perhaps a deadline."""
        return changed(
            self,
            id=new_id("call"),
            request=self.request or self.id,
            role=role,
            deadline=self.deadline if deadline is None else deadline,
            came=None,
            idempotency_key=None,
        )

    def remaining_s(self, now: float) -> float | None:
        """Seconds left at `now`, or None without a deadline. Raises DeadlineExceeded at zero."""
        if self.deadline is None:
            return None
        left = self.deadline - now
        if left <= 0:
            raise DeadlineExceeded("The deadline of this request has passed.")
        return left
