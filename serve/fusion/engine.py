"""The fusion's decisions, as a pure state machine: events and the time in, actions out.

It knows neither models nor a clock, so a test plays any order of arrivals to the millisecond.
The runner (`serve.fusion.deliberation`) carries the actions out, reports what happened, and
comes back with a `Tick` at `wake_at`.

    asking ──panel closed──▶ judging ──analysis or its failure──▶ writing ──▶ ended
     │  ▲ └──────no answer at all──▶ ended (GiveUp)
     └──┘ one more layer

Every call has a number of its own. What is reported of a call that is no longer waited for
changes the money and nothing else.

A panel closes when nobody is waited for, when a quorum is in and its grace is over, or when
60% of the whole time is gone (as soon as one answer is in); the judge has until 80%.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from models.errors import (
    AllPanelsFailed,
    BadRequest,
    BudgetExceeded,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    UpstreamError,
)
from models.messages import Source
from models.prices import usd
from models.values import value
from serve.fusion.contract import Analysis, FailureReason

PANEL_SHARE = 0.6
JUDGE_SHARE = 0.8

#: Why somebody's answer is missing by the run's own decision.
LeftOut = Literal["cost_cap", "late", "deadline"]


@value(slots=True)
class Answer:
    """What one panelist said. `member` is its name in the panel."""

    member: str
    text: str
    sources: tuple[Source, ...] = ()
    #: Its tokens ended before it did.
    cut: bool = False


@value(slots=True)
class FailedMember:
    """A panelist without an answer. `who` is its number in `Terms.names`."""

    who: int
    member: str
    error: FusionError
    left_out: LeftOut | None = None


@value(slots=True)
class Prices:
    """The most that each call can cost, in nano-dollars; None where its model has no price.
    `members` goes with `Terms.names`."""

    cap: int
    members: tuple[int | None, ...]
    judge: int | None
    writer: int | None


@value(slots=True)
class Terms:
    """What one run consists of, and within what it must end.

    `names` are the panelists: those of the `places` first, then the candidates that may take a
    failed one's place. Without places the `writer` (a model) answers by itself. `deadline` is a
    point on the clock of `now`.
    """

    names: tuple[str, ...]
    places: int
    writer: str
    quorum: int
    grace_s: float
    member_s: float
    deadline: float | None = None
    layers: int = 1
    prices: Prices | None = None


# Events: what happened. `ask` is the call's number, `cost` what it took, in nano-dollars.


@value(slots=True)
class Answered:
    ask: int
    text: str
    sources: tuple[Source, ...] = ()
    cost: int = 0
    cut: bool = False


@value(slots=True)
class MemberFailed:
    ask: int
    error: FusionError
    cost: int = 0


@value(slots=True)
class Judged:
    """The judge's analysis, and the member whose answer it finds best, where it was asked."""

    ask: int
    analysis: Analysis
    best: str | None = None
    cost: int = 0


@value(slots=True)
class JudgeFailed:
    ask: int
    reason: FailureReason
    cost: int = 0


@value(slots=True)
class Written:
    ask: int
    cost: int = 0


@value(slots=True)
class Tick:
    """Time has passed."""


@value(slots=True)
class Abandoned:
    """The caller went away."""


Event = Answered | MemberFailed | Judged | JudgeFailed | Written | Tick | Abandoned

# Actions: what to do now.


@value(slots=True)
class AskMember:
    """Ask the panelist `names[who]`. `before` are the answers of the layer before this one."""

    ask: int
    who: int
    deadline: float | None
    before: tuple[Answer, ...] = ()


@value(slots=True)
class AskJudge:
    ask: int
    answers: tuple[Answer, ...]
    deadline: float | None


@value(slots=True)
class Write:
    """Write the final answer. Without an analysis, from the raw answers."""

    ask: int
    answers: tuple[Answer, ...]
    analysis: Analysis | None
    judge_failure: FailureReason | None
    best: str | None = None


@value(slots=True)
class Stop:
    """Nobody waits for this call any more: cancel it."""

    ask: int


@value(slots=True)
class GiveUp:
    error: FusionError


Action = AskMember | AskJudge | Write | Stop | GiveUp


@value(slots=True)
class _Ask:
    """A call that is waited for. A judge and a writer have no place."""

    place: int
    who: int
    deadline: float


@dataclass(slots=True)
class Run:
    """One fusion."""

    terms: Terms
    phase: Literal["new", "asking", "judging", "writing", "ended"] = "new"
    #: Nano-dollars that were reported, and the most that calls under way may still cost.
    spent: int = 0
    reserved: dict[int, int] = field(default_factory=dict)
    #: What panelists with tools may cost beside the answer that is reserved.
    looking: dict[int, int] = field(default_factory=dict)
    failed: list[FailedMember] = field(default_factory=list)
    _open: dict[int, _Ask] = field(default_factory=dict)
    _asked: int = 0
    _layer: int = 1
    #: By place. A later layer writes over an earlier one, so a failure there loses nothing.
    _answers: dict[int, Answer] = field(default_factory=dict)
    #: Places that have answered in this layer, and since when they are enough.
    _in: set[int] = field(default_factory=set)
    _enough_at: float = inf
    #: Who holds each place, and who may still get one.
    _holders: dict[int, int] = field(default_factory=dict)
    _candidates: deque[int] = field(default_factory=deque)
    _began: float = 0.0
    _panel_end: float = inf
    _judge_end: float = inf

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The panel's answers so far, in the panel's order."""
        return tuple(map(self._answers.__getitem__, sorted(self._answers)))

    @property
    def answered(self) -> bool:
        """Somebody's answer is in."""
        return bool(self._answers)

    @property
    def open(self) -> frozenset[int]:
        """The calls that are waited for."""
        return frozenset(self._open)

    @property
    def wake_at(self) -> float | None:
        """When to come back with a `Tick` if nothing else happens."""
        if self.phase not in ("asking", "judging"):
            return None
        moments = [ask.deadline for ask in self._open.values()]
        if self.phase == "asking":
            moments += [self._judge_end, self._enough_at + self.terms.grace_s]
            if self._answers:
                moments.append(self._layer_end())
        first = min(moments)
        return None if first == inf else first

    def start(self, now: float) -> list[Action]:
        if self.phase != "new":
            raise ValueError(f"this cannot happen while {self.phase}")
        terms, prices = self.terms, self.terms.prices
        self._began = now
        if terms.deadline is not None:
            whole = terms.deadline - now
            self._panel_end = now + PANEL_SHARE * whole
            self._judge_end = now + JUDGE_SHARE * whole
        if prices is not None and (prices.writer is None or prices.writer > prices.cap):
            return self._give_up(_too_dear(terms.writer, prices.writer))
        if not terms.places:
            return [self._write(None, None, None)]
        self.phase = "asking"
        self._candidates.extend(range(terms.places, len(terms.names)))
        self._holders = {place: place for place in range(terms.places)}
        actions = self._ask_holders(now)
        return actions if self._open else self._give_up(self._common_failure())

    def on(self, event: Event, now: float) -> list[Action]:
        """What to do after this event."""
        if isinstance(event, Abandoned):
            return self._end()
        if isinstance(event, Tick):
            return self._judge_too_late(now) if self.phase == "judging" else self._panel(now)
        self.spent += event.cost
        self.reserved.pop(event.ask, None)
        self.looking.pop(event.ask, None)
        ask = self._open.pop(event.ask, None)
        if ask is None:
            return []  # late: it was only money
        match event:
            case Answered(text=text, sources=sources, cut=cut):
                # An empty answer gives the judge nothing to read and the writer nothing to use.
                if not text.strip():
                    empty = UpstreamError("The model returned an empty answer.")
                    return self._lose(ask, empty, now) + self._panel(now)
                self._holders[ask.place] = ask.who
                self._answers[ask.place] = Answer(self.terms.names[ask.who], text, sources, cut)
                self._in.add(ask.place)
                if len(self._in) >= min(self.terms.quorum, len(self._holders)):
                    self._enough_at = min(self._enough_at, now)
                return self._panel(now)
            case MemberFailed(error=error):
                return self._lose(ask, error, now) + self._panel(now)
            case Judged(analysis=analysis, best=best):
                return [self._write(analysis, None, best)]
            case JudgeFailed(reason=reason):
                return [self._write(None, reason, None)]
            case Written():
                return self._end()

    # The panel

    def _ask_holders(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for place, who in self._holders.items():
            actions += self._ask(place, who, now)
        return actions

    def _ask(self, place: int, who: int, now: float) -> list[Action]:
        prices = self.terms.prices
        worst = prices.members[who] if prices else 0
        if worst is None or not self._fits(worst):
            why = _UNPRICED if worst is None else _WHY["cost_cap"]
            self._fail(who, BudgetExceeded.of_cap(why), "cost_cap")
            return []
        deadline = min(now + self.terms.member_s, self._judge_end)
        number = self._number(worst)
        self._open[number] = _Ask(place, who, deadline)
        before = self.answers if self._layer > 1 else ()
        return [AskMember(number, who, None if deadline == inf else deadline, before)]

    def _lose(self, ask: _Ask, error: FusionError, now: float) -> list[Action]:
        """A panelist failed: take it down, and give its place to the next candidate."""
        self._fail(ask.who, error)
        while self._candidates and self._layer == 1 and now < self._panel_end:
            if asked := self._ask(ask.place, self._candidates.popleft(), now):
                return asked
        return []

    def _fail(self, who: int, error: FusionError, left_out: LeftOut | None = None) -> None:
        self.failed.append(FailedMember(who, self.terms.names[who], error, left_out))

    def _panel(self, now: float) -> list[Action]:
        """Whoever is over its own time fails; then the panel closes, or goes on waiting."""
        if self.phase != "asking":
            return []
        actions: list[Action] = []
        for number in [number for number, ask in self._open.items() if ask.deadline <= now]:
            actions.append(Stop(number))
            late = DeadlineExceeded("It did not answer in its time.")
            actions += self._lose(self._open.pop(number), late, now)
        reason = self._closing(now)
        if self._open and reason is None:
            return actions
        for number in list(self._open):
            ask = self._open.pop(number)
            actions.append(Stop(number))
            assert reason is not None
            self._fail(ask.who, DeadlineExceeded(_WHY[reason]), reason)
        return actions + self._after_panel(now)

    def _closing(self, now: float) -> LeftOut | None:
        if now >= self._enough_at + self.terms.grace_s:
            return "late"
        if now >= self._judge_end or (self._answers and now >= self._layer_end()):
            return "deadline"
        return None

    def _layer_end(self) -> float:
        """Each layer has an equal share of the panel's time."""
        return self._began + (self._panel_end - self._began) * self._layer / self.terms.layers

    def _after_panel(self, now: float) -> list[Action]:
        if not self._answers:
            return self._give_up(self._common_failure())
        if self._in and self._layer < self.terms.layers and now < self._panel_end:
            self._layer += 1
            self._holders = {place: self._holders[place] for place in sorted(self._answers)}
            self._in.clear()
            self._enough_at = inf
            if asked := self._ask_holders(now):
                return asked
        prices = self.terms.prices
        worst = prices.judge if prices else 0
        self.phase = "judging"
        if worst is None or not self._fits(worst):
            return [self._write(None, "insufficient_credits", None)]
        if now >= self._judge_end:  # no time is left for it
            return [self._write(None, "judge_upstream_error", None)]
        number = self._number(worst)
        self._open[number] = _Ask(-1, -1, self._judge_end)
        deadline = None if self._judge_end == inf else self._judge_end
        return [AskJudge(number, self.answers, deadline)]

    def _common_failure(self) -> FusionError:
        """What the caller hears when nobody answered.

        Panelists that all refuse the request, or are all busy, say what one model would say: a
        prompt that is too long is the caller's to mend, and a full panel has a time to return.
        """
        for kind in (BadRequest, BudgetExceeded, Overloaded, DeadlineExceeded):
            if all(isinstance(one.error, kind) for one in self.failed):
                return self.failed[0].error
        reasons = "; ".join(f"{one.member}: {one.error.message}" for one in self.failed)
        return AllPanelsFailed(f"all panel models failed ({reasons})")

    # The judge and the writer

    def _judge_too_late(self, now: float) -> list[Action]:
        late = [number for number, ask in self._open.items() if ask.deadline <= now]
        if not late:
            return []
        self._open.clear()
        return [*map(Stop, late), self._write(None, "judge_upstream_error", None)]

    def _write(
        self, analysis: Analysis | None, failure: FailureReason | None, best: str | None
    ) -> Action:
        self.phase = "writing"
        number = self._number(self.kept)
        self._open[number] = _Ask(-1, -1, inf)
        return Write(number, self.answers, analysis, failure, best)

    def _give_up(self, error: FusionError) -> list[Action]:
        return [*self._end(), GiveUp(error)]

    def _end(self) -> list[Action]:
        self.phase = "ended"
        stops: list[Action] = [Stop(number) for number in self._open]
        self._open.clear()
        return stops

    # Money

    @property
    def kept(self) -> int:
        """Nano-dollars of the cap that are for later: the writer comes first, then the judge, then
        the panelists in their order. Only a judge that would leave nothing for any panelist waits
        for what the panel does not spend."""
        prices = self.terms.prices
        if prices is None:
            return 0
        writer = prices.writer or 0
        if self.phase != "asking":
            return writer
        judge, first = prices.judge or 0, prices.members[0] or 0
        return writer + judge if writer + judge + first <= prices.cap else writer

    def _fits(self, worst: int) -> bool:
        prices = self.terms.prices
        if prices is None:
            return True
        under_way = sum(self.reserved.values()) + sum(self.looking.values())
        return self.spent + under_way + self.kept + worst <= prices.cap

    def may_look(self, ask: int) -> bool:
        """Whether a panelist gets tools: the turn in which it asks for them costs as much as an
        answer at most, which must fit beside all that is reserved, and then is too."""
        worst = self.reserved[ask]
        if not self._fits(worst):
            return False
        self.looking[ask] = worst
        return True

    def _number(self, worst: int) -> int:
        self._asked += 1
        self.reserved[self._asked] = worst
        return self._asked


def _too_dear(writer: str, most: int | None) -> BudgetExceeded:
    """The refusal of a final answer that may cost so much; None: nobody knows."""
    if most is None:
        return BudgetExceeded.of_cap(
            f"Model '{writer}', which writes the final answer, has no price, and a cost cap bounds "
            f"this request: what it would cost cannot be known. Set models.{writer}.price in the "
            "catalog."
        )
    return BudgetExceeded.of_cap(
        f"The cost cap does not cover the final answer, which may cost {usd(most)} USD. A shorter "
        "one (max_tokens) costs less."
    )


_UNPRICED = "Not asked: it has no price, and this request has a cost cap."
_WHY: dict[LeftOut, str] = {
    "cost_cap": "Not asked: it would pass the cost cap of this request.",
    "late": "Cancelled: enough answers were in, and its grace was over.",
    "deadline": "Cancelled: the time that this request has for its panel was over.",
}
