"""From predictions to a choice: the quality knob, the dollar ceiling, the share of flagship tokens.

Everything here is a function of values. The choice is one model, a cascade (the first answers,
a verifier looks, the second answers what failed) or a panel (all answer, a judge reads them).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from router.candidate import Candidate
from router.gain import FAR, Prediction
from router.told import count, number

Kind = Literal["one", "cascade", "panel"]

WORTH_LOW, WORTH_HIGH = 1e-4, 10.0
"""Dollars that a right answer instead of a wrong one is worth, just over knob 0 and under 1."""

UNPRICED = 0.01
"""Dollars that stand in for a model without price where no candidate has one."""

_SETTLED = 20
_LARGEST = 100_000


class NothingAffordable(ValueError):
    """No candidate stays within the dollar ceiling. The message says what the cheapest needs."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What a request asks for.

    quality: 0 as cheap as can be to 1 as good as can be. ceiling: dollars that all models which
    may answer cost together, at most. share: part of all tokens, 0 to 1, that flagships should
    produce over the window of live traffic; with a share the knob decides nothing.
    """

    quality: float = 0.5
    ceiling: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.quality <= 1.0:
            raise ValueError(f"quality is {self.quality}, not within 0 to 1")
        if self.ceiling is not None and not self.ceiling >= 0.0:
            raise ValueError(f"ceiling is {self.ceiling}, not a number of dollars")
        if self.share is not None and not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share is {self.share}, not within 0 to 1")

    @property
    def worth(self) -> float:
        """Dollars for a right answer instead of a wrong one: 0 at knob 0, endless at 1."""
        if self.quality in (0.0, 1.0):
            return math.inf if self.quality else 0.0
        return float(WORTH_LOW * (WORTH_HIGH / WORTH_LOW) ** self.quality)


@dataclass(frozen=True, slots=True)
class Verifier:
    """How well a cascade's check works: the part of wrong answers it catches, the part of right
    ones it doubts, and what one check costs: dollars, and further samples of the first model.
    Measured on live traffic where possible.
    """

    catches: float = 0.7
    doubts: float = 0.15
    cost: float = 0.0
    samples: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.catches <= 1 and 0 <= self.doubts <= 1 and self.cost >= 0):
            raise ValueError("a verifier's rates are within 0 to 1 and its cost is not negative")


@dataclass(frozen=True, slots=True)
class Panel:
    """Candidates that may answer together. `insight`: how much of the way from the best
    panelist's quality to that of an oracle among them the judge and synthesis go; `overhead`:
    their dollars; `name` in the catalog.
    """

    models: tuple[str, ...]
    insight: float = 0.3
    overhead: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.models) < 2 or not 0 <= self.insight <= 1 or self.overhead < 0:
            raise ValueError("a panel has two models or more, insight in 0 to 1, overhead from 0")


@dataclass(frozen=True, slots=True)
class Menu:
    """What besides one model may be chosen, and which candidates are flagships."""

    flagships: frozenset[str] = frozenset()
    verifier: Verifier | None = None
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """One thing that may be done. quality and spread are expected, cost is the mean in dollars,
    most the dollars if everything in it is called and says as much as it can. priced: False where
    a price had to be assumed. panel: the name of a panel.
    """

    kind: Kind
    models: tuple[str, ...]
    quality: float
    spread: float
    cost: float
    most: float
    priced: bool = True
    panel: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        """Where the expected quality lies with 90%, within 0 to 1."""
        half = 1.645 * self.spread
        return max(0.0, self.quality - half), min(1.0, self.quality + half)


@dataclass(frozen=True, slots=True)
class Decision:
    """What was chosen, what else there was, best first, and why, in words.

    gain: expected quality of the best flagship option less that of the best other one; zero
    where there is only one side. far: the prompt is unlike anything seen. singles: what each
    candidate alone would do, chosen from or not.
    """

    choice: Option
    options: tuple[Option, ...]
    reason: str
    gain: float
    far: bool
    singles: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """The last requests of live traffic: for each its gain, its tokens, and how many of these
    flagships produced. Immutable: `after` gives the next window.
    """

    size: int = 500
    gains: tuple[float, ...] = field(default=(), repr=False)
    tokens: tuple[float, ...] = field(default=(), repr=False)
    flagship: tuple[float, ...] = field(default=(), repr=False)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Window:
        """What `dataclasses.asdict` made of one, and JSON of that. Raises KeyError, TypeError or
        ValueError."""
        gains = tuple(number(gain) for gain in data["gains"])
        tokens = tuple(number(some, 0.0) for some in data["tokens"])
        pairs = zip(data["flagship"], tokens, strict=True)
        flagship = tuple(number(part, 0.0, whole) for part, whole in pairs)
        if len(gains) != len(tokens):
            raise ValueError(f"{len(gains)} gains of {len(tokens)} requests")
        return cls(count(data["size"], 1, _LARGEST), gains, tokens, flagship)

    def after(self, gain: float, tokens: float, flagship: float) -> Window:
        """The window once a request was answered with so many tokens, `flagship` of them by
        flagships."""
        return Window(
            self.size,
            (*self.gains, gain)[-self.size :],
            (*self.tokens, max(float(tokens), 0.0))[-self.size :],
            (*self.flagship, min(max(float(flagship), 0.0), tokens))[-self.size :],
        )

    @property
    def realised(self) -> float:
        """Share of the window's tokens that flagships produced, 0 to 1; 0 when empty."""
        return math.fsum(self.flagship) / (math.fsum(self.tokens) or 1.0)

    def calls(self, gain: float, share: float) -> bool:
        """Whether a request of this gain belongs to the share that flagships should answer.

        The cut is the quantile of the window's own gains, weighed by tokens, that would bring
        the realised share back to the target: no score is fixed, so that a change of traffic
        moves the cut and not the share.
        """
        behind = self.realised < share
        if share in (0.0, 1.0):
            return share == 1.0
        if len(self.gains) < _SETTLED:
            return behind
        aim = min(1.0, max(0.0, 2.0 * share - self.realised))
        gains, tokens = np.array(self.gains), np.array(self.tokens) + 1e-9
        order = np.argsort(-gains, kind="stable")
        reached = np.cumsum(tokens[order]) / tokens.sum()
        cut = float(gains[order][min(int(np.searchsorted(reached, aim)), len(order) - 1)])
        # Where many requests have one gain, a quantile cannot part them: the balance does.
        return behind if math.isclose(gain, cut, abs_tol=1e-9) else gain > cut


def decide(
    prediction: Prediction,
    row: int,
    candidates: Sequence[Candidate],
    objective: Objective,
    menu: Menu | None = None,
    window: Window | None = None,
) -> Decision:
    """Choose for one prompt, the `row` of a prediction over the candidates.

    Where there is no candidate on one side, nothing can be shared and the knob decides.
    Raises NothingAffordable where the ceiling leaves nothing.
    """
    menu = menu or Menu()
    singles = _singles(prediction, row, candidates)
    far = bool(prediction.distance[row] > FAR)
    options = list(singles.values())
    if not far:
        options += _cascades(singles, menu) + _panels(singles, menu)
    options = _within(options, objective.ceiling)
    sides = [[o for o in options if _is_flagship(o, menu) is side] for side in (True, False)]
    gain = 0.0
    if all(sides):
        gain = max(o.quality for o in sides[0]) - max(o.quality for o in sides[1])
    reasons = []
    if objective.share is not None and all(sides):
        window = window or Window()
        called = window.calls(gain, objective.share)
        options = _ranked(sides[0] if called else sides[1], 0.95)
        reasons.append(
            f"gain {gain:+.3f} is {'within' if called else 'outside'} the {objective.share:.0%} of "
            f"tokens meant for flagships (now {window.realised:.0%})"
        )
    else:
        options = _ranked(options, objective.quality)
        reasons.append(_knob_reason(options[0], objective))
        if objective.share is not None:
            left = "only flagships" if sides[0] else "no flagships"
            reasons.append(f"there are {left} to choose from, so no share of tokens can be kept")
    if far:
        reasons.append("unlike anything seen: judged by each model's mean alone, one model only")
    if not options[0].priced:
        reasons.append("no price known, taken to be as dear as the dearest")
    alone = tuple(singles.values())
    return Decision(options[0], tuple(options), "; ".join(reasons), gain, far, alone)


def _singles(
    prediction: Prediction, row: int, candidates: Sequence[Candidate]
) -> dict[str, Option]:
    qualities, spreads, costs = (
        numbers[row].tolist()
        for numbers in (prediction.quality, prediction.spread, prediction.cost)
    )
    dearest = max(filter(math.isfinite, costs), default=UNPRICED)
    singles = {}
    for candidate, quality, spread, told in zip(candidates, qualities, spreads, costs, strict=True):
        priced = math.isfinite(told)
        cost = told if priced else dearest
        most = cost if candidate.most is None else max(cost, candidate.most)
        singles[candidate.name] = Option(
            "one", (candidate.name,), quality, spread, cost, most, priced
        )
    return singles


def _cascades(singles: dict[str, Option], menu: Menu) -> list[Option]:
    """First the cheap one; what the verifier flags goes to the dear one."""
    check = menu.verifier
    if check is None:
        return []
    found = []
    for first in singles.values():
        for second in singles.values():
            if first.cost >= second.cost or first.quality >= second.quality:
                continue
            right, wrong = first.quality, 1.0 - first.quality
            flagged = right * check.doubts + wrong * check.catches
            looked = first.cost * (1 + check.samples) + check.cost
            found.append(
                Option(
                    "cascade",
                    first.models + second.models,
                    right * (1.0 - check.doubts) + flagged * second.quality,
                    math.hypot((1.0 - flagged) * first.spread, flagged * second.spread),
                    looked + flagged * second.cost,
                    (1 + check.samples) * first.most + check.cost + second.most,
                    first.priced and second.priced,
                )
            )
    return found


def _panels(singles: dict[str, Option], menu: Menu) -> list[Option]:
    found = []
    for panel in menu.panels:
        members = [singles[name] for name in panel.models if name in singles]
        if len(members) < len(panel.models):
            continue
        best = max(members, key=lambda member: member.quality)
        # Models fail on the same prompts: the best of several is not as good as if independent.
        oracle = 1.0 - math.sqrt(math.prod(1.0 - m.quality for m in members) * (1 - best.quality))
        cost = sum(member.cost for member in members) + panel.overhead
        most = sum(member.most for member in members) + panel.overhead
        quality = best.quality + panel.insight * (oracle - best.quality)
        priced = all(member.priced for member in members)
        found.append(
            Option(
                "panel", panel.models, quality, best.spread, cost, most, priced, panel=panel.name
            )
        )
    return found


def _within(options: list[Option], ceiling: float | None) -> list[Option]:
    if ceiling is None:
        return options
    affordable = [option for option in options if option.priced and option.most <= ceiling]
    if not affordable:
        priced = [option.most for option in options if option.priced]
        needs = (
            f"the cheapest needs ${_raised(min(priced))}" if priced else "no candidate has a price"
        )
        told = np.format_float_positional(ceiling, trim="-")
        raise NothingAffordable(f"nothing within ${told}: {needs}")
    return affordable


def _raised(dollars: float) -> str:
    """Rounded up: who then allows just what was said must not be refused again."""
    return f"{math.ceil(dollars * 1e6) / 1e6:.6f}"


def _is_flagship(option: Option, menu: Menu) -> bool:
    return any(model in menu.flagships for model in option.models)


def _ranked(options: list[Option], knob: float) -> list[Option]:
    worth = Objective(quality=knob).worth

    def rank(option: Option) -> tuple[float, float]:
        if math.isinf(worth):
            return -option.quality, option.cost
        return option.cost - worth * option.quality, -option.quality

    return sorted(options, key=rank)


def _knob_reason(chosen: Option, objective: Objective) -> str:
    if math.isinf(objective.worth):
        return f"the best expected quality, {chosen.quality:.2f}"
    if objective.worth == 0.0:
        return f"the cheapest, ${chosen.cost:.6f}"
    return (
        f"expected quality {chosen.quality:.2f} for ${chosen.cost:.6f} is the best balance where "
        f"a right answer is worth ${objective.worth:.4f} (quality {objective.quality:g})"
    )
