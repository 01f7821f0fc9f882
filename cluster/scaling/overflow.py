"""What happens to a request that would wait too long: wait, spill to a remote API, or be shed.

Pure; the dispatcher and the simulator call it with what they know at the door.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Verdict = Literal["wait", "spill", "shed"]

# An expected wait is a mean, and a request that is let in cannot be called back: whoever is
# expected to wait for more than this part of the time that it has is at risk of being late.
_SPILL_AT = 0.7


@dataclass(frozen=True, slots=True)
class OverflowLimits:
    """When to stop waiting.

    ttft_s: target seconds to the first token. shed_after_s: expected wait above which a request
    is refused with 429 and Retry-After. late_usd: what an answer in time is worth, so that a
    remote call above that price is not made; None where any price within budget is right.
    """

    ttft_s: float
    shed_after_s: float = 60.0
    late_usd: Decimal | None = None

    def __post_init__(self) -> None:
        if self.ttft_s <= 0 or self.shed_after_s < self.ttft_s:
            raise ValueError("overflow limits need 0 < ttft_s <= shed_after_s")


def overflow(
    wait_s: float,
    limits: OverflowLimits,
    remote_usd: Decimal | None = None,
    prompt_s: float = 0.0,
) -> Verdict:
    """Where a request goes that is expected to wait `wait_s` seconds for its turn here, and whose
    own prompt then takes `prompt_s`: however long that is, alone it puts nobody at risk who does
    not wait, unless it is longer than the target.

    `remote_usd` is the price of the cheapest equal remote call that policy and budget allow,
    None where there is none. A request at risk of being late spills if that is worth its price;
    one that would wait longer than anyone waits is shed; all others wait.
    """
    if wait_s <= _SPILL_AT * (limits.ttft_s - prompt_s):
        return "wait"
    if remote_usd is not None and (limits.late_usd is None or remote_usd <= limits.late_usd):
        return "spill"
    return "shed" if wait_s > limits.shed_after_s else "wait"


def retry_after_s(backlog_s: float, ttft_s: float, starting_in_s: float = math.inf) -> int:
    """Whole seconds for Retry-After: until the backlog is short enough for the target again, or
    until the next replica serves if that is sooner. At least 1."""
    wait = min(max(0.0, backlog_s - ttft_s), starting_in_s)
    return max(1, math.ceil(wait)) if math.isfinite(wait) else 1
