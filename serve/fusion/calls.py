"""What every inner call of a fusion has: its part of the money, and a stage also when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from models.answerer import Clock
from models.call import Call
from models.errors import FusionError
from models.messages import Stage, StageRole
from models.values import changed


def spared(call: Call, nano_usd: int) -> Call:
    """The call with so much of its cost cap kept for others."""
    cap = call.cost_cap_nano_usd
    return call if cap is None else changed(call, cost_cap_nano_usd=cap - nano_usd)


@contextmanager
def noted(stages: list[Stage], role: StageRole, model: str, clock: Clock) -> Iterator[None]:
    """Puts a stage on a call that ends without an answer: it may have cost something."""
    began = clock.now()
    try:
        yield
    except BaseException as error:
        stages.append(Stage(role, model, seconds=clock.now() - began, error=_why(error)))
        raise


def _why(error: BaseException) -> str:
    match error:
        case FusionError():
            return error.message
        case asyncio.CancelledError() | GeneratorExit():
            return "Cancelled."
    return f"Internal error: {type(error).__name__}."
