"""`fusion draco run`: systems answer, a judge reads, and every figure stands beside its cost.

Answers and verdicts are batches. What generates is handed ids and problems and nothing else: no
rubric is in reach of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from serve.evaluation.draco import judge
from serve.evaluation.draco.dataset import Criterion, Section, Task
from serve.evaluation.draco.judge import Protocol, read_verdict
from serve.evaluation.draco.scoring import (
    Judged,
    RunScore,
    ScoringError,
    TaskScore,
    Verdict,
    mean_of,
    passes,
    score_run,
)
from serve.evaluation.forecast import Forecast, few, forecast
from serve.evaluation.outcome import Outcome, of_row
from serve.evaluation.systems import System
from serve.evaluation.work import Row, Work
from serve.statistics import Interval, wilson

#: Criteria that a second judge reads too.
SAMPLE = 100
_SECOND = 1000
#: Verdicts that are asked for ahead, to estimate what all will cost.
_AHEAD = 20


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often two judges say the same of the same criterion; `kappa` is Cohen's (1960)."""

    judge: str
    other: str
    share: Interval
    kappa: float | None
    criteria: int


@dataclass(frozen=True, slots=True)
class Leaning:
    """How often a judge says MET, of criteria with a positive weight and of those with a negative
    one; None where it judged none."""

    positive: float | None
    negative: float | None

    @property
    def is_blind(self) -> bool:
        """Whether it says one word whatever it reads, so that no score says anything."""
        return {self.positive, self.negative} - {None} in ({0.0}, {1.0})


@dataclass(frozen=True, slots=True)
class Result:
    """One system: its outcome, its score and its verdicts by task. A task that nobody could judge
    has no score."""

    outcomes: Mapping[str, Outcome]
    scores: Mapping[str, TaskScore]
    #: By task, the judge runs.
    verdicts: Mapping[str, list[list[Judged]]]


@dataclass(slots=True)
class Bench:
    """The tasks, who judges, and by which protocol. One protocol a table."""

    tasks: Sequence[Task]
    judge: str
    protocol: Protocol
    second: str | None = None
    _tasks: dict[str, Task] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._tasks = {task.id: task for task in self.tasks}

    def run(
        self, work: Work, systems: Sequence[System]
    ) -> tuple[dict[str, Result], Agreement | None]:
        """Raises Stopped, or RemoteError."""
        problems = [(task.id, task.problem) for task in self.tasks]
        answers = work.ask("answers", answer_rows(systems, problems))
        verdicts = work.ask("verdicts", self.verdict_rows(systems, answers))
        agreement = self._agree(work, systems, answers, verdicts)
        return {one.name: self.result(one, answers, verdicts) for one in systems}, agreement

    def ahead(self, work: Work, systems: Sequence[System]) -> Forecast:
        """What `run` will cost, from a few tasks and a few of their criteria; the second judge
        is taken to cost what the first does. Raises Stopped, or RemoteError."""
        part = replace(self, tasks=few(self.tasks))
        problems = [(task.id, task.problem) for task in part.tasks]
        answers = work.ask("sample of answers", answer_rows(systems, problems))
        rows = few(list(part.verdict_rows(systems, answers)), _AHEAD)
        verdicts = work.ask("sample of verdicts", rows)
        criteria = len(systems) * sum(len(task.criteria) for task in self.tasks)
        runs, _ = judge.PROTOCOLS[self.protocol]
        second = min(SAMPLE, criteria) if self.second else 0
        return forecast(
            [
                *(
                    ([answers[_id(one, task.id)] for task in part.tasks], len(self.tasks))
                    for one in systems
                ),
                (list(verdicts.values()), criteria * runs + second if verdicts else 0),
            ]
        )

    def verdict_rows(
        self, systems: Sequence[System], answers: Mapping[str, Row]
    ) -> Iterator[dict[str, Any]]:
        """Every criterion of every answer, each judge run of its own."""
        runs, temperature = judge.PROTOCOLS[self.protocol]
        for system in systems:
            for task in self.tasks:
                for criterion, run in _criteria(task, runs):
                    if text := _text(answers[_id(system, task.id)]):
                        asked = judge.body(
                            self.judge, task.problem, text, criterion.requirement, temperature
                        )
                        yield {"id": _id(system, task.id, criterion, run), "sample": run, **asked}

    def result(
        self, system: System, answers: Mapping[str, Row], verdicts: Mapping[str, Row]
    ) -> Result:
        """What one system's answers came to."""
        runs, _ = judge.PROTOCOLS[self.protocol]
        outcomes: dict[str, Outcome] = {}
        scores: dict[str, TaskScore] = {}
        judged: dict[str, list[list[Judged]]] = {}
        for task in self.tasks:
            row = answers[_id(system, task.id)]
            if not _text(row):
                # Refused, failed or empty: 0, and shown as such.
                why = row.get("error") or "an empty answer"
                outcomes[task.id] = of_row(row | {"status": "failed", "error": why}, 0.0)
                continue
            judged[task.id] = [
                [_judged(verdicts, system, task, one, run) for one in task.criteria]
                for run in range(runs)
            ]
            scored = _scored(judged[task.id])
            if scored is not None:
                scores[task.id] = scored
            outcomes[task.id] = of_row(row, scored.normalized_score if scored else 0.0)
        return Result(outcomes, scores, judged)

    def _agree(
        self,
        work: Work,
        systems: Sequence[System],
        answers: Mapping[str, Row],
        verdicts: Mapping[str, Row],
    ) -> Agreement | None:
        """A second judge reads a sample of what the first one read in its first run."""
        if self.second is None:
            return None
        _, temperature = judge.PROTOCOLS[self.protocol]
        read = [
            (system, task, criterion)
            for system in systems
            for task in self.tasks
            for criterion in task.criteria
            if _text(answers[_id(system, task.id)])
        ]
        chosen = random.Random(0).sample(read, min(SAMPLE, len(read)))  # noqa: S311  # a spread
        if not chosen:
            return None
        rows = []
        for system, task, criterion in chosen:
            text = _text(answers[_id(system, task.id)])
            asked = judge.body(self.second, task.problem, text, criterion.requirement, temperature)
            # A sample of its own: the first judge's kept verdict is no second opinion.
            rows.append({"id": _id(system, task.id, criterion, 0), "sample": _SECOND, **asked})
        others = work.ask("second judge", rows)
        pairs = [
            (read_verdict(verdicts[row["id"]]["answer"])[0], read_verdict(other["answer"])[0])
            for row in rows
            for other in (others[row["id"]],)
        ]
        return agreement(self.judge, self.second, pairs)

    def by_section(self, result: Result) -> dict[str, float]:
        """Pass rate by the sections' titles."""
        return _pass_rates(
            (section.title, one)
            for task, section in self._sections(result)
            for run in result.verdicts[task.id]
            for one in _within(run, section)
        )

    def by_domain(self, result: Result) -> dict[str, float]:
        """Pass rate by domain."""
        return _pass_rates(
            (self._tasks[task].domain, one)
            for task, runs in result.verdicts.items()
            for run in runs
            for one in run
        )

    def _sections(self, result: Result) -> Iterator[tuple[Task, Section]]:
        for task in self.tasks:
            if task.id in result.verdicts:
                for section in task.rubric.sections:
                    yield task, section


def answer_rows(
    systems: Sequence[System], problems: Sequence[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    """What is asked of the systems. `problems` are (id, problem): all they may know."""
    for system in systems:
        for task, problem in problems:
            yield {"id": _id(system, task), "prompt": problem, **system.body}


def agreement(
    first: str, second: str, pairs: Sequence[tuple[Verdict | None, Verdict | None]]
) -> Agreement | None:
    """Of the pairs in which both have a verdict; None where there is none."""
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not both:
        return None
    same = sum(a == b for a, b in both)
    met = [sum(pair[side] == "MET" for pair in both) / len(both) for side in (0, 1)]
    chance = met[0] * met[1] + (1 - met[0]) * (1 - met[1])
    kappa = None if chance == 1 else (same / len(both) - chance) / (1 - chance)
    return Agreement(first, second, wilson(same, len(both)), kappa, len(both))


def leaning(results: Iterable[Result]) -> Leaning:
    """Of every verdict that there is."""
    found = [
        one
        for result in results
        for runs in result.verdicts.values()
        for run in runs
        for one in run
    ]

    def met(sign: int) -> float | None:
        said = [one.verdict == "MET" for one in found if one.verdict and one.weight * sign > 0]
        return sum(said) / len(said) if said else None

    return Leaning(met(1), met(-1))


def _criteria(task: Task, runs: int) -> Iterator[tuple[Criterion, int]]:
    return ((criterion, run) for criterion in task.criteria for run in range(runs))


def _id(system: System, task: str, criterion: Criterion | None = None, run: int = 0) -> str:
    named = f"{system.name}/{task}"
    return named if criterion is None else f"{named}/{criterion.id}/{run}"


def _text(row: Row) -> str:
    return (row["answer"] or "").strip() if row["status"] == "done" else ""


def _judged(
    verdicts: Mapping[str, Row], system: System, task: Task, criterion: Criterion, run: int
) -> Judged:
    row = verdicts[_id(system, task.id, criterion, run)]
    verdict, _ = read_verdict(row["answer"])
    return Judged(criterion.id, criterion.weight, verdict)


def _scored(runs: list[list[Judged]]) -> TaskScore | None:
    """The mean over the runs that can be scored: a judge may answer in prose throughout."""
    found: list[RunScore] = []
    for run in runs:
        try:
            found.append(score_run(run))
        except ScoringError:
            continue
    return mean_of(found) if found else None


def _within(run: Iterable[Judged], section: Section) -> Iterator[Judged]:
    ids = {criterion.id for criterion in section.criteria}
    return (one for one in run if one.criterion_id in ids)


def _pass_rates(named: Iterable[tuple[str, Judged]]) -> dict[str, float]:
    counts: dict[str, list[int]] = {}
    for name, one in named:
        if one.verdict is not None:
            count = counts.setdefault(name, [0, 0])
            count[0] += passes(one)
            count[1] += 1
    return {name: good / all_ for name, (good, all_) in sorted(counts.items())}
