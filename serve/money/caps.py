"""What single requests may cost in all, by the caller's own word. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import BudgetExceeded
from models.prices import usd

#: How long after its last call a request's spending is remembered.
KEPT_S = 3600.0

#: A request: its project and its id.
Capped = tuple[str, str]


@dataclass(slots=True)
class _Spent:
    settled: int = 0
    reserved: int = 0
    at: float = 0.0


class Caps:
    """How much each capped request has spent in this process, all calls under it together."""

    def __init__(self) -> None:
        self._spent: dict[Capped, _Spent] = {}

    def __len__(self) -> int:
        return len(self._spent)

    def reserve(self, request: Capped, cap: int, worst: int, now: float) -> None:
        """Set a call's worst case aside. Raises BudgetExceeded if the cap does not allow it."""
        # The caller's own cap, less what is kept of it for others: only what is left is told.
        if worst > (left := self.left(request, cap)):
            raise BudgetExceeded.of_cap(
                f"The cost cap of this request leaves {usd(left)} USD for this call, which could "
                f"cost up to {usd(worst)} USD and was not made."
            )
        spent = self._spent.get(request, _Spent())
        spent.reserved += worst
        spent.at = now
        self._spent[request] = spent

    def settle(self, request: Capped, worst: int, cost: int) -> None:
        """A call that had `worst` set aside did cost this. Nothing if the request has no cap."""
        if (spent := self._spent.get(request)) is not None:
            spent.reserved -= worst
            spent.settled += cost

    def add(self, request: Capped, cost: int, now: float) -> None:
        """Count what was spent for this request elsewhere."""
        spent = self._spent.setdefault(request, _Spent())
        spent.settled += cost
        spent.at = now

    def left(self, request: Capped, cap: int) -> int:
        """What the request may still spend."""
        spent = self._spent.get(request, _Spent())
        return max(0, cap - spent.settled - spent.reserved)

    def forget(self, now: float) -> None:
        """Let go of requests that made no call for long."""
        for request, spent in list(self._spent.items()):
            if not spent.reserved and now - spent.at > KEPT_S:
                del self._spent[request]
