"""What the providers of server tools take, reserved and settled like a call to a model."""

from __future__ import annotations

from models.answerer import Clock, SystemClock
from models.call import Call, new_id
from models.tools.toolbox import Settle
from models.values import changed
from serve.money.ledger import opened
from serve.money.till import Payer

#: Who takes the money, beside workforce and flagship models.
TIER = "tool"


class TillFees:
    """Each run of a tool that costs something is an entry of its own, under the tool's name."""

    def __init__(self, till: Payer, clock: Clock | None = None) -> None:
        self._till = till
        self._clock = clock or SystemClock()

    async def reserve(self, tool: str, most: int, call: Call) -> Settle:
        entry = opened(call, new_id("led"), tool, TIER, self._clock.now())
        hold = await self._till.reserve(entry, most, call.cost_cap_nano_usd)

        def settle(cost: int | None) -> None:
            if cost is None:
                self._till.settle(hold, changed(entry, nano_usd=most, basis="estimated"))
            else:
                self._till.settle(hold, changed(entry, nano_usd=cost))

        return settle
