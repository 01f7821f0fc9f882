"""What an answer cost, as HTTP headers for clients that do not read its body's extension."""

from __future__ import annotations

import json
from collections.abc import Sequence

from models.messages import Stage, Usage
from models.prices import usd
from serve.money.ledger import BRAIN

#: Stages that are told one by one; more only make their sum.
MOST_STAGES = 32


def cost(stages: Sequence[Stage]) -> int | None:
    """Nano-dollars of all stages, or None if one that ran has no price."""
    total = 0
    for stage in stages:
        if stage.nano_usd is not None:
            total += stage.nano_usd
        elif stage.error is None:
            return None
    return total


def headers(stages: Sequence[Stage]) -> dict[str, str]:
    """`x-fusion-cost-usd` (absent where a model that ran has no price), `x-fusion-tokens`, the
    dollars of the brain's roles, and each stage as JSON in `x-fusion-stages`."""
    used = sum((stage.usage for stage in stages), Usage())
    told = {
        "x-fusion-tokens": f"input={used.input}, output={used.output}, cached={used.cached}",
        "x-fusion-stages": json.dumps(
            [_stage(stage) for stage in stages[:MOST_STAGES]], separators=(",", ":")
        ),
    }
    if (total := cost(stages)) is not None:
        told["x-fusion-cost-usd"] = usd(total)
    if (brain := cost([stage for stage in stages if stage.role in BRAIN])) is not None:
        told["x-fusion-brain-cost-usd"] = usd(brain)
    return told


def _stage(stage: Stage) -> list[str | int | None]:
    price = None if stage.nano_usd is None else usd(stage.nano_usd)
    return [stage.role, stage.model, stage.usage.input, stage.usage.output, price]
