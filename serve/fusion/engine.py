"""The fusion's decisions, as a pure state machine: events in, actions out.

It knows neither models nor time, so a test plays any order of arrivals in microseconds. The
runner (`serve.fusion.fusion`) carries the actions out and reports what happened.

    asking ──all members in──▶ judging ──analysis or its failure──▶ writing ──▶ ended
       └──────no answer at all──▶ ended (AllPanelsFailed)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from models.errors import (
    AllPanelsFailed,
    BadRequest,
    DeadlineExceeded,
    FusionError,
    Overloaded,
)
from models.messages import Completion
from serve.fusion.contract import Analysis, FailureReason


@dataclass(frozen=True, slots=True)
class Answer:
    """What one panelist said. `member` is its name in the panel."""

    member: str
    text: str


@dataclass(frozen=True, slots=True)
class FailedMember:
    member: str
    error: FusionError


# Events: what happened.


@dataclass(frozen=True, slots=True)
class Answered:
    index: int
    completion: Completion


@dataclass(frozen=True, slots=True)
class MemberFailed:
    index: int
    error: FusionError


@dataclass(frozen=True, slots=True)
class Judged:
    analysis: Analysis


@dataclass(frozen=True, slots=True)
class JudgeFailed:
    reason: FailureReason


Event = Answered | MemberFailed | Judged | JudgeFailed

# Actions: what to do now.


@dataclass(frozen=True, slots=True)
class AskMember:
    index: int


@dataclass(frozen=True, slots=True)
class AskJudge:
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """Write the final answer. Without an analysis, from the raw answers."""

    answers: tuple[Answer, ...]
    analysis: Analysis | None
    judge_failure: FailureReason | None


@dataclass(frozen=True, slots=True)
class GiveUp:
    error: FusionError


Action = AskMember | AskJudge | Write | GiveUp


@dataclass(slots=True)
class Run:
    """One fusion. `members` are the panelists' names, in the panel's order."""

    members: tuple[str, ...]
    phase: Literal["new", "asking", "judging", "writing", "ended"] = "new"
    completions: dict[int, Completion] = field(default_factory=dict)
    failures: dict[int, FusionError] = field(default_factory=dict)

    def start(self) -> list[Action]:
        self._expect("new")
        self.phase = "asking"
        return [AskMember(index) for index in range(len(self.members))]

    def on(self, event: Event) -> list[Action]:
        """What to do after this event. Raises ValueError for one that cannot happen now."""
        match event:
            case Answered(index, completion):
                self._arrive(index)
                # An empty answer gives the judge nothing to read and the writer nothing to use.
                if completion.text.strip():
                    self.completions[index] = completion
                else:
                    self.failures[index] = FusionError("The model returned an empty answer.")
                return self._panel_actions()
            case MemberFailed(index, error):
                self._arrive(index)
                self.failures[index] = error
                return self._panel_actions()
            case Judged(analysis):
                self._expect("judging")
                self.phase = "writing"
                return [Write(self.answers, analysis, None)]
            case JudgeFailed(reason):
                self._expect("judging")
                self.phase = "writing"
                return [Write(self.answers, None, reason)]

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The panel's answers so far, in the panel's order."""
        return tuple(
            Answer(self.members[index], self.completions[index].text)
            for index in sorted(self.completions)
        )

    @property
    def failed(self) -> tuple[FailedMember, ...]:
        return tuple(
            FailedMember(self.members[index], self.failures[index])
            for index in sorted(self.failures)
        )

    def _arrive(self, index: int) -> None:
        self._expect("asking")
        if index in self.completions or index in self.failures or index >= len(self.members):
            raise ValueError(f"panelist {index} is not being waited for")

    def _panel_actions(self) -> list[Action]:
        if len(self.completions) + len(self.failures) < len(self.members):
            return []
        if not self.completions:
            self.phase = "ended"
            return [GiveUp(self._common_failure())]
        self.phase = "judging"
        return [AskJudge(self.answers)]

    def _common_failure(self) -> FusionError:
        """What the caller hears when nobody answered.

        Panelists that all refuse the request, or are all busy, say what one model would say: a
        prompt that is too long is the caller's to mend, and a full panel has a time to return.
        """
        first = self.failed[0].error
        for kind in (BadRequest, Overloaded, DeadlineExceeded):
            if all(isinstance(one.error, kind) for one in self.failed):
                return first
        reasons = "; ".join(f"{one.member}: {one.error.message}" for one in self.failed)
        return AllPanelsFailed(f"all panel models failed ({reasons})")

    def _expect(self, phase: str) -> None:
        if self.phase != phase:
            raise ValueError(f"this cannot happen while {self.phase}")
