"""What a fusion tells beside its answer: the contract's result, and what we add to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from models.errors import Cancelled, FusionError
from models.messages import Source
from serve.fusion.contract import Analysis, FailureReason, failure_reason
from serve.fusion.engine import Answer, FailedMember, Run


def result(
    answers: Iterable[Answer],
    failed: Iterable[FailedMember],
    analysis: Analysis | None,
    reason: FailureReason | None,
) -> dict[str, Any]:
    """The contract's result of a fusion that has answers. `analysis` is left out, and `reason`
    says why, when the judge failed."""
    told: dict[str, Any] = {"status": "ok"}
    if analysis is not None:
        told["analysis"] = analysis.model_dump(mode="json")
    told["responses"] = [{"model": one.member, "content": one.text} for one in answers]
    told["failed_models"] = [failure(one) for one in failed]
    if reason is not None:
        told["failure_reason"] = reason
    return told


def error(error: FusionError, run: Run | None = None) -> dict[str, Any]:
    """The contract's result of a fusion that has none. `run` is what there was of it."""
    failed = run.failed if run is not None else []
    nobody = run is not None and failed and not run.answers and not isinstance(error, Cancelled)
    reason = failure_reason(error)
    if nobody and reason == "unexpected_error":
        reason = "all_panels_failed"
    return {
        "status": "error",
        "error": "all panel models failed" if nobody else error.message,
        "failure_reason": reason,
        "failed_models": [failure(one) for one in failed],
    }


def failure(one: FailedMember) -> dict[str, Any]:
    return {
        "model": one.member,
        "error": one.error.message,
        "status_code": one.error.status,
    }


def left_out(failed: Iterable[FailedMember]) -> list[dict[str, str]]:
    """Whose answer is missing by the run's own decision, and why."""
    return [{"model": one.member, "why": one.left_out} for one in failed if one.left_out]


def sources(answers: Iterable[Answer], text: str = "") -> tuple[Source, ...]:
    """Every source of these answers once, those that `text` cites first."""
    every = {source.url: source for answer in answers for source in answer.sources}
    return tuple(sorted(every.values(), key=lambda source: source.url not in text))
