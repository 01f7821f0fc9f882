"""The router of live traffic: what the weights say, what was learned since, and a choice.

Pure: time and chance are given, and what happened comes as events, so that replicas that fold
the same events know the same. `state` is everything that a checkpoint must keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from router.arrays import Floats
from router.candidate import Candidate
from router.cascade import Signs, Tally
from router.encoder import Encoder
from router.gain import FAR_SPREAD, GainModel, Prediction
from router.health import Health
from router.learner import Learner, Lesson
from router.objective import Decision, Menu, Objective, Option, Window, decide
from router.told import count, number

KINDS = ("design", "read", "search", "extract", "write", "code", "check", "decide")
"""Kinds of subtask, each one more number of a prompt's context."""

DAY_S = 86_400.0
_LAST_DAY = 100_000


@dataclass(frozen=True, slots=True)
class Question:
    """What the router is asked. looks: the signs that a cascade would look at; samples: further
    answers of the first model that this takes; explore: the part of requests that may try another
    model than the best, explore_usd: dollars that this may cost a day.
    """

    prompt: str
    candidates: tuple[Candidate, ...]
    objective: Objective = field(default_factory=Objective)
    menu: Menu = field(default_factory=Menu)
    kind: str | None = None
    looks: tuple[str, ...] = ()
    samples: int = 0
    explore: float = 0.0
    explore_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What the router answers: the decision, and what must be kept to learn from its outcome.

    expected: the weights' word on each model; predicted: that with what was learned. propensity:
    the probability with which this choice was made; extra_usd: what exploring costs here.
    """

    decision: Decision
    eye: str
    context: Floats
    expected: Mapping[str, float]
    predicted: Mapping[str, float]
    known: Mapping[str, bool]
    signs: Signs
    propensity: float = 1.0
    explored: bool = False
    extra_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer of `fusion/auto` was given: its tokens, how many of them flagships wrote, and
    what exploring was expected to cost more than the best choice.
    """

    at: float
    gain: float
    tokens: int
    flagship_tokens: int
    share: float | None = None
    extra_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer was judged: a lesson, what had been predicted of it, and with what propensity."""

    lesson: Lesson
    predicted: float
    propensity: float = 1.0
    signal: str = "feedback"


@dataclass(frozen=True, slots=True)
class Looked:
    """The truth about a cheap answer that had been looked at became known: 0 wrong to 1 right."""

    shown: Mapping[str, bool]
    truth: float


@dataclass(frozen=True, slots=True)
class Heard:
    """A cheap answer told how likely its tokens were: the mean of their log probabilities."""

    model: str
    logprob: float


Event = Answered | Judged | Looked | Heard


@dataclass(slots=True)
class LiveRouter:
    """One replica's knowledge."""

    model: GainModel
    encoder: Encoder | None = None
    learner: Learner = field(init=False)
    window: Window = field(default_factory=Window)
    signs: Signs = field(default_factory=Signs)
    health: Health = field(default_factory=Health)
    #: The day since the epoch that exploring was counted for, and its dollars.
    day: int = 0
    explored_usd: float = 0.0
    #: A day, and the dollars of this replica's plans of it whose answers are to come. Not of the
    #: state: what is under way here no checkpoint knows.
    promised: tuple[int, float] = (0, 0.0)

    def __post_init__(self) -> None:
        eye = self.model.eye(self.encoder)
        self.learner = Learner(eye.id, len(eye.sight.mean) + len(KINDS))

    def look(self, question: Question) -> Prediction:
        """What the weights say: the slow part of a decision, and the same whatever was learned.

        Raises ValueError for no candidate.
        """
        candidates = [
            replace(one, known_as=self.model.recognise(one.known_as or one.name))
            for one in question.candidates
        ]
        return self.model.predict([question.prompt], candidates, self.encoder)

    def decide(
        self, question: Question, now: float, chance: float, found: Prediction | None = None
    ) -> Plan:
        """Choose for one prompt. `chance` is a uniform number from 0 to 1; `found` is what `look`
        said, where it was asked before.

        Raises NothingAffordable where the ceiling leaves nothing, ValueError for no candidate.
        """
        found = found or self.look(question)
        context = np.concatenate([found.context[0], _kind(question.kind)])
        names = [candidate.name for candidate in question.candidates]
        quality, spread = self.learner.corrected(
            names, context[None, :], found.quality, found.spread
        )
        # How far a prompt is stays as it is: lessons tell of the models, not of what was seen.
        corrected = replace(found, quality=quality, spread=spread)
        menu = question.menu
        if question.looks:
            menu = replace(menu, verifier=self.signs.verifier(question.looks, question.samples))
        decision = decide(corrected, 0, question.candidates, question.objective, menu, self.window)
        plan = Plan(
            decision=decision,
            eye=self.learner.eye,
            context=context,
            expected=dict(zip(names, found.quality[0].tolist(), strict=True)),
            predicted=dict(zip(names, corrected.quality[0].tolist(), strict=True)),
            known={name: not guess for name, guess in zip(names, found.guessed, strict=True)},
            signs=self.signs,
        )
        return self._explored(plan, question, now, chance)

    def _explored(self, plan: Plan, question: Question, now: float, chance: float) -> Plan:
        """Now and then another model than the best, where the day's budget still bears it."""
        best = plan.decision.choice
        today = int(now // DAY_S)
        spent = self.explored_usd if self.day == today else 0.0
        left = question.explore_usd - spent - self._promised(today)
        knob = question.objective.quality
        if question.explore <= 0.0 or (knob in (0.0, 1.0) and question.objective.share is None):
            return plan
        others = [
            option
            for option in plan.decision.options
            if option.kind == "one"
            and option != best
            and option.priced
            and _extra(option, best) <= left
        ]
        if not others:
            return plan
        part = question.explore / len(others)
        if chance >= question.explore:
            return replace(plan, propensity=1.0 - question.explore)
        chosen = others[min(int(chance / part), len(others) - 1)]
        decision = replace(
            plan.decision,
            choice=chosen,
            reason=f"trying another model than {', '.join(best.models)}",
        )
        return replace(
            plan,
            decision=decision,
            propensity=part,
            explored=True,
            extra_usd=_extra(chosen, best),
        )

    def promise(self, plan: Plan, now: float) -> None:
        """Count what a plan's exploring costs from now on: its answer may take minutes, in which
        others must not spend the same. An answer that never comes counts until the day is over."""
        today = int(now // DAY_S)
        self.promised = today, self._promised(today) + plan.extra_usd

    def _promised(self, today: int) -> float:
        day, dollars = self.promised
        return dollars if day == today else 0.0

    def fold(self, event: Event) -> None:
        """Learn from something that happened, here or in another replica."""
        match event:
            case Answered():
                self.window = self.window.after(event.gain, event.tokens, event.flagship_tokens)
                self.health = self.health.answered(event.share)
                day = int(event.at // DAY_S)
                if day > self.day:
                    self.day, self.explored_usd = day, 0.0
                if day == self.day:
                    self.explored_usd += event.extra_usd
                if day == self.promised[0]:
                    self.promised = day, max(0.0, self.promised[1] - event.extra_usd)
            case Judged() if not event.lesson.eye:
                pass  # chosen by `blind`: what differs from a guess by price is no surprise
            case Judged():
                self.learner.learn(event.lesson)
                self.health = self.health.judged(
                    event.lesson.model, event.lesson.score, event.predicted, event.propensity
                )
            case Looked():
                self.signs = self.signs.after(event.shown, event.truth)
            case Heard():
                self.signs = self.signs.heard(event.model, event.logprob)

    def state(self) -> dict[str, Any]:
        """Everything learned, as JSON data. See `restore`."""
        return {
            "format": 1,
            "learner": self.learner.to_json(),
            "window": asdict(self.window),
            "signs": {name: asdict(tally) for name, tally in self.signs.tallies.items()},
            "usual": {model: list(known) for model, known in self.signs.usual.items()},
            "health": asdict(self.health),
            "day": self.day,
            "explored_usd": self.explored_usd,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave. Raises ValueError, and changes nothing, if it is broken."""
        try:
            if state["format"] != 1:
                raise ValueError(f"format {state['format']} is not this version's")
            learner = Learner.from_json(state["learner"], self.learner.eye, self.learner.width)
            window = Window.from_json(state["window"])
            usual = state.get("usual", {}).items()  # an older state has none
            signs = Signs(
                {str(k): Tally.from_json(v) for k, v in state["signs"].items()},
                {str(model): (number(rows, 0.0), number(mean)) for model, (rows, mean) in usual},
            )
            health = Health.from_json(state["health"])
            day, explored = count(state["day"], 0, _LAST_DAY), number(state["explored_usd"], 0.0)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a router's state: {error!r}") from error
        self.learner, self.window, self.signs, self.health = learner, window, signs, health
        self.day, self.explored_usd = day, explored


def blind(question: Question) -> Plan:
    """A choice without weights, by price and strength alone: for when no router can be asked.

    Raises as `LiveRouter.decide`.
    """
    if not question.candidates:
        raise ValueError("no candidates to choose from")
    shape = (1, len(question.candidates))
    strength = np.array([[one.strength for one in question.candidates]])
    cost = np.array([[math.nan if c.cost is None else c.cost for c in question.candidates]])
    found = Prediction(0.4 + 0.4 * strength, np.full(shape, FAR_SPREAD), cost, np.full(1, math.inf))
    decision = decide(found, 0, question.candidates, question.objective, question.menu)
    names = [one.name for one in question.candidates]
    quality = dict(zip(names, found.quality[0].tolist(), strict=True))
    return Plan(
        decision=replace(decision, reason=f"{decision.reason}; the router could not be asked"),
        eye="",
        context=np.zeros(0, np.float32),
        expected=quality,
        predicted=quality,
        known=dict.fromkeys(names, False),
        signs=Signs(),
    )


def _kind(kind: str | None) -> Floats:
    return np.array([kind == name for name in KINDS], np.float32)


def _extra(option: Option, best: Option) -> float:
    return max(0.0, option.cost - best.cost) if math.isfinite(option.cost) else math.inf
