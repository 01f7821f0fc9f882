"""Completions as text, for the store."""

from __future__ import annotations

from pydantic import TypeAdapter

from models.messages import Completion

_completions = TypeAdapter(Completion)


def dump(completion: Completion) -> str:
    return _completions.dump_json(completion).decode()


def load(text: str) -> Completion:
    return _completions.validate_json(text)


def cost(completion: Completion) -> int:
    """Nano-dollars of all its stages; one without a price counts as nothing."""
    return sum(stage.nano_usd or 0 for stage in completion.stages)


def tokens(completion: Completion) -> dict[str, list[int]]:
    """Input and output tokens by the model that used them."""
    used: dict[str, list[int]] = {}
    for stage in completion.stages:
        so_far = used.setdefault(stage.model, [0, 0])
        so_far[0] += stage.usage.input
        so_far[1] += stage.usage.output
    return used
