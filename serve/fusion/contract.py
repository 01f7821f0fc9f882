"""The shapes of a fusion's result that clients know: OpenRouter's Fusion contract.

Source: the contract's public documentation and OpenAPI description (read 2026-11).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from models.errors import (
    AllPanelsFailed,
    BadRequest,
    BudgetExceeded,
    Cancelled,
    DeadlineExceeded,
    FusionError,
    ModelNotFound,
    Overloaded,
)

FailureReason = Literal[
    "all_panels_failed",
    "insufficient_credits",
    "rate_limited",
    "fusion_invocation_capped",
    "unexpected_error",
    "invalid_model",
    "judge_not_valid_json",
    "judge_schema_mismatch",
    "judge_upstream_error",
    "judge_empty_completion",
    "cancelled",
]

#: The first kind that an error is says why a whole fusion failed.
_REASONS: tuple[tuple[type[FusionError], FailureReason], ...] = (
    (BudgetExceeded, "insufficient_credits"),
    (Overloaded, "rate_limited"),
    (ModelNotFound, "invalid_model"),
    (Cancelled, "cancelled"),
    (AllPanelsFailed, "all_panels_failed"),
    (DeadlineExceeded, "all_panels_failed"),
)


class TooDeep(BadRequest):
    """A fusion inside a fusion."""


def failure_reason(error: FusionError) -> FailureReason:
    """The contract's word for what ended a fusion."""
    if isinstance(error, TooDeep):
        return "fusion_invocation_capped"
    if error.param in ("analysis_models", "model"):
        return "invalid_model"
    return next((word for kind, word in _REASONS if isinstance(error, kind)), "unexpected_error")


#: How a text of the judge's names answers: "Answer A", "answers A, B and C". A letter alone may be
#: a word, so it stays.
_LABEL = re.compile(r"\b[A-H]\b")
_MENTIONS = re.compile(r"\b[Aa]nswers?\s+([A-H]\b(?:(?:\s*,\s*|\s*,?\s+(?:and|or)\s+)[A-H]\b)*)")
#: Characters that a model writes with one token, at worst (JSON and junk are dense).
_CHARACTERS_A_TOKEN = 2.5
_TOPIC = 80


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Stance(_Shape):
    model: str
    stance: str


class Contradiction(_Shape):
    topic: str
    stances: tuple[Stance, ...]


class Coverage(_Shape):
    models: tuple[str, ...]
    point: str


class Insight(_Shape):
    model: str
    insight: str


class Analysis(_Shape):
    """What the judge found in the panel's answers. All five keys, always."""

    consensus: tuple[str, ...]
    contradictions: tuple[Contradiction, ...]
    partial_coverage: tuple[Coverage, ...]
    unique_insights: tuple[Insight, ...]
    blind_spots: tuple[str, ...]

    def renamed(self, names: dict[str, str]) -> Analysis:
        """The same with every neutral label replaced by the name behind it.

        A label that the judge made up stays as it is: dropping it would drop its stance.
        """

        def name(label: str) -> str:
            bare = label.strip().removeprefix("Answer ").removeprefix("answer ").strip(" .:()")
            return names.get(bare, label)

        def said(text: str) -> str:
            return _MENTIONS.sub(lambda found: _LABEL.sub(lambda m: name(m[0]), found[1]), text)

        return Analysis(
            consensus=tuple(map(said, self.consensus)),
            contradictions=tuple(
                Contradiction(
                    topic=said(item.topic),
                    stances=tuple(
                        Stance(model=name(one.model), stance=said(one.stance))
                        for one in item.stances
                    ),
                )
                for item in self.contradictions
            ),
            partial_coverage=tuple(
                Coverage(models=tuple(map(name, item.models)), point=said(item.point))
                for item in self.partial_coverage
            ),
            unique_insights=tuple(
                Insight(model=name(item.model), insight=said(item.insight))
                for item in self.unique_insights
            ),
            blind_spots=tuple(map(said, self.blind_spots)),
        )


def analysis_schema(
    labels: tuple[str, ...], max_tokens: int, pick: bool = False
) -> Mapping[str, Any]:
    """The JSON schema that the judge must fill, with `labels` as the only names it may use.

    With `pick` it also names the `best` answer, last, when it has compared them.

    Every array and text is bounded, so that even a model that fills all of it with words ends
    its JSON within `max_tokens`: an analysis that breaks off is no analysis. An answer that
    goes past the bounds, from a model that is not held to a schema, is still read.
    """
    items = 2 if max_tokens < 1500 else 4 if max_tokens < 4000 else 6
    # Texts in a full schema: one an item in four lists, and a stance of each label in the fifth.
    texts = items * (4 + len(labels))
    around = items * (_TOPIC + 40 * (3 + 2 * len(labels))) + 120
    room = (max_tokens * _CHARACTERS_A_TOKEN - around) / texts
    text = {"type": "string", "maxLength": max(40, min(400, int(room)))}
    label = {"type": "string", "enum": list(labels)}

    def array(of: dict[str, Any], most: int = items) -> dict[str, Any]:
        return {"type": "array", "items": of, "maxItems": most}

    def record(**properties: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    topic = {"type": "string", "maxLength": _TOPIC}
    stances = array(record(model=label, stance=text), len(labels))
    last = {"best": label} if pick else {}
    return record(
        consensus=array(text),
        contradictions=array(record(topic=topic, stances=stances)),
        partial_coverage=array(record(models=array(label, len(labels)), point=text)),
        unique_insights=array(record(model=label, insight=text)),
        blind_spots=array(text),
        **last,
    )
