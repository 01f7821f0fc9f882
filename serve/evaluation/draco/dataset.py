"""The benchmark's file: one JSON line a task, whose `answer` is a JSON string with the rubric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from serve.evaluation import lines


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Criterion(_Read):
    id: str
    weight: Annotated[FiniteFloat, Field(ge=-1e12, le=1e12)]
    requirement: str


class Section(_Read):
    id: str
    title: str
    criteria: tuple[Criterion, ...]


class Rubric(_Read):
    id: str
    sections: tuple[Section, ...] = Field(min_length=1)


class _Line(_Read):
    id: str
    problem: str = Field(min_length=1)
    answer: str
    domain: str


@dataclass(frozen=True, slots=True)
class Task:
    """One problem and how an answer to it is judged.

    Whoever generates answers is handed `problem` and nothing else.
    """

    id: str
    problem: str
    domain: str
    rubric: Rubric

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        return tuple(one for section in self.rubric.sections for one in section.criteria)


@dataclass(frozen=True, slots=True)
class Counts:
    """How large a set is. `sections` are the different numbers of sections that tasks have."""

    tasks: int
    domains: int
    criteria: int
    negative: int
    sections: tuple[int, ...]
    least_weight: float
    greatest_weight: float


PUBLIC = Counts(
    tasks=100,
    domains=10,
    criteria=3934,
    negative=415,
    sections=(4,),
    least_weight=-500,
    greatest_weight=20,
)


def read_tasks(path: Path) -> list[Task]:
    """Every task of a file. Raises LinesError with every problem by its line, or OSError."""
    return lines.read(path, parse_task, "tasks")


def parse_task(line: bytes) -> Task:
    """One line as a task. Raises ValueError with the reason in words."""
    try:
        raw = _Line.model_validate_json(line)
    except ValidationError as error:
        raise ValueError(lines.reason(error)) from None
    try:
        rubric = Rubric.model_validate_json(raw.answer)
    except ValidationError as error:
        raise ValueError(f"answer: {lines.reason(error)}") from None
    task = Task(raw.id, raw.problem, raw.domain, rubric)
    twice = [name for name, n in Counter(one.id for one in task.criteria).items() if n > 1]
    if twice:
        raise ValueError(f"the criterion '{twice[0]}' stands twice")
    if not any(one.weight > 0 for one in task.criteria):
        raise ValueError("no criterion has a positive weight, so no answer could be scored")
    return task


def count(tasks: Sequence[Task]) -> Counts:
    weights = [one.weight for task in tasks for one in task.criteria]
    return Counts(
        tasks=len(tasks),
        domains=len({task.domain for task in tasks}),
        criteria=len(weights),
        negative=sum(weight < 0 for weight in weights),
        sections=tuple(sorted({len(task.rubric.sections) for task in tasks})),
        least_weight=min(weights),
        greatest_weight=max(weights),
    )


def differences(counts: Counts) -> list[str]:
    """In what a set is not the public one, a sentence each."""
    public = asdict(PUBLIC)
    return [
        f"{name.replace('_', ' ')}: {_plain(value)}, the public set has {_plain(public[name])}"
        for name, value in asdict(counts).items()
        if value != public[name]
    ]


def _plain(value: float | tuple[int, ...]) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
