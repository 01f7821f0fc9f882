"""A batch: what was asked for, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from models.errors import BadRequest

State = Literal[
    "validating",
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
]
#: States that only `resume` leaves.
ENDED: frozenset[State] = frozenset(("completed", "failed", "expired", "cancelled"))
#: Why a batch ended early.
Why = Literal["cancelled", "expired", "budget_exceeded"]
#: Silence after which whoever worked on a batch is taken to be gone.
SILENT_S = 30.0
#: The same of a job that was handed to Ray and has not begun: on a busy machine that takes a while.
START_S = 120.0
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True)
class Spec:
    """What was asked for. Everything in it is JSON."""

    input_file: str
    endpoint: str = "/v1/chat/completions"
    window: str = "24h"
    #: Answers rows that name no model.
    model: str | None = None
    budget_nano_usd: int | None = None
    priority: Literal["low", "normal"] = "low"
    #: What a line that cannot be read does: be reported, or end the batch before it has begun.
    bad_rows: Literal["report", "stop"] = "report"
    key: str | None = None
    #: The names that its key may say; None for every name.
    models: tuple[str, ...] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: Seconds that its output files are kept; None: for ever.
    output_kept_s: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the store has it. Times are seconds since the epoch."""

    id: str
    project: str
    created_at: float
    expires_at: float
    state: State
    spec: Spec
    why: Why | None = None
    runner: str | None = None
    seen_at: float | None = None
    job: str | None = None
    times: Mapping[str, float] = field(default_factory=dict)
    rows: int = 0
    done: int = 0
    failed: int = 0
    running: int = 0
    reused: int = 0
    nano_usd: int = 0
    tokens: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    errors: tuple[tuple[int, str], ...] = ()
    output_file: str | None = None
    error_file: str | None = None

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    def is_silent(self, now: float) -> bool:
        """Whether nobody seems to work on it, though somebody should."""
        patience = START_S if self.runner is None else SILENT_S
        return not self.has_ended and now - (self.seen_at or self.created_at) > patience


def seconds(window: str) -> float:
    """`30m`, `8h`, `2d` in seconds. Raises BadRequest."""
    number, unit = window[:-1], window[-1:]
    good = unit in _UNITS and number.isdecimal() and len(number) <= 4
    if not good or int(number) == 0:
        raise BadRequest(
            f"'{window[:40]}' is not a time: write 30m, 24h or 2d.", param="completion_window"
        )
    return int(number) * _UNITS[unit]


def micro(at: float) -> int:
    """Seconds since the epoch as the store has them."""
    return round(at * 1e6)
