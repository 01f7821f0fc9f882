"""`fusion eval`: systems on questions whose answers can be checked."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from serve.evaluation.forecast import Forecast, few, forecast
from serve.evaluation.outcome import Outcome, together
from serve.evaluation.questions import Question, vote
from serve.evaluation.systems import System
from serve.evaluation.work import Row, Work

Outcomes = dict[str, list[Outcome]]


def rows(systems: Sequence[System], questions: Sequence[Question]) -> Iterator[dict[str, Any]]:
    """Every request of the evaluation."""
    for system in systems:
        for question in questions:
            for sample in range(system.samples):
                yield {
                    "id": _id(system, question, sample),
                    "prompt": question.prompt(),
                    "sample": sample,
                    **system.body,
                }


def evaluate(work: Work, systems: Sequence[System], questions: Sequence[Question]) -> Outcomes:
    """Ask all, and score what comes back. Raises Stopped, or RemoteError."""
    return score(work.ask("questions", rows(systems, questions)), systems, questions)


def ahead(work: Work, systems: Sequence[System], questions: Sequence[Question]) -> Forecast:
    """What it will cost, from a few of the questions. Raises Stopped, or RemoteError."""
    chosen = few(questions)
    found = work.ask("sample", rows(systems, chosen))
    return forecast(
        (
            [found[_id(one, question, n)] for question in chosen for n in range(one.samples)],
            len(questions) * one.samples,
        )
        for one in systems
    )


def score(
    found: Mapping[str, Row], systems: Sequence[System], questions: Sequence[Question]
) -> Outcomes:
    """Outcomes by system, in the order of the questions."""
    outcomes: Outcomes = {}
    for system in systems:
        outcomes[system.name] = []
        for question in questions:
            samples = [found[_id(system, question, n)] for n in range(system.samples)]
            chosen = vote([question.read(row["answer"] or "") for row in samples])
            right = float(question.is_right(chosen))
            outcomes[system.name].append(together(samples, right))
    return outcomes


def _id(system: System, question: Question, sample: int) -> str:
    return f"{system.name}/{question.id}/{sample}"


def check_teachable(systems: Sequence[System]) -> list[System]:
    """Those that are one model. Raises ValueError where there is none."""
    solo = [one for one in systems if one.kind == "solo"]
    if not solo:
        raise ValueError("no system is one model alone, so there is nothing to teach the router")
    return solo


def teach(
    path: Path,
    systems: Sequence[System],
    questions: Sequence[Question],
    outcomes: Outcomes,
    source: str,
) -> int:
    """Write the outcomes of the models that answer alone in the router's training format.

    Returns how many rows there are. A call that failed tells of a provider's bad day and nothing of
    what its model can do, so it teaches nothing.
    """
    solo, rows = check_teachable(systems), 0
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for place, question in enumerate(questions):
            found = {str(one.model): outcomes[one.name][place] for one in solo}
            answered = {name: _outcome(one) for name, one in found.items() if not one.failed}
            if not answered:
                continue
            line = {
                "id": question.id,
                "prompt": question.prompt(),
                "task": question.task,
                "source": source,
                "outcomes": answered,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            rows += 1
    return rows


def _outcome(one: Outcome) -> dict[str, float]:
    cost = {} if one.usd is None else {"cost": float(one.usd)}
    return {"score": one.score} | cost
