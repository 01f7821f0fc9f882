"""How well the router does on live traffic: calibration, shares, regret. All discounted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.told import count, number

BINS = 10
_KEEP = 0.999


@dataclass(frozen=True, slots=True)
class Health:
    """Sums over judged answers, each later one making the earlier ones weigh less.

    bins: by predicted quality, (weight, predicted, score) each. models: by name, (weight, score)
    with weights of one over the propensity. chosen: (weight, score) as they came.
    """

    answers: int = 0
    judgements: int = 0
    target_share: float | None = None
    bins: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),) * BINS
    models: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    chosen: tuple[float, float] = (0.0, 0.0)

    def answered(self, share: float | None) -> Health:
        """One more answer, of a request with this target share of flagship tokens, or none."""
        return Health(
            self.answers + 1,
            self.judgements,
            self.target_share if share is None else share,
            self.bins,
            self.models,
            self.chosen,
        )

    def judged(self, model: str, score: float, predicted: float, propensity: float) -> Health:
        """One more judged answer."""
        place = min(int(predicted * BINS), BINS - 1)
        bins = [(_KEEP * w, _KEEP * p, _KEEP * s) for w, p, s in self.bins]
        weight, foreseen, seen = bins[place]
        bins[place] = weight + 1.0, foreseen + predicted, seen + score
        models = {name: (_KEEP * w, _KEEP * s) for name, (w, s) in self.models.items()}
        weight, seen = models.get(model, (0.0, 0.0))
        # Clipped: one lucky try of a thousandth must not stand for a thousand answers.
        times = min(1.0 / max(propensity, 1e-6), 50.0)
        models[model] = weight + times, seen + times * score
        weight, seen = self.chosen
        return Health(
            self.answers,
            self.judgements + 1,
            self.target_share,
            tuple(bins),
            models,
            (_KEEP * weight + 1.0, _KEEP * seen + score),
        )

    @property
    def calibration_error(self) -> float | None:
        """Mean distance between predicted and true score, over ten bins; None without answers."""
        total = sum(weight for weight, _, _ in self.bins)
        if total <= 0.0:
            return None
        return sum(abs(foreseen - seen) for _, foreseen, seen in self.bins) / total

    @property
    def regret(self) -> float | None:
        """How much better the best single model seems than what was chosen, from propensities;
        None before any answer was judged."""
        weight, seen = self.chosen
        if weight <= 0.0:
            return None
        # What was last heard of long ago weighs next to nothing, and tells nothing.
        best = max((s / w for w, s in self.models.values() if w > 1e-6), default=0.0)
        return max(0.0, best - seen / weight)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Health:
        """What `dataclasses.asdict` made of one, and JSON of that. Raises ValueError."""
        try:
            bins = tuple((number(w, 0.0), number(p), number(s)) for w, p, s in data["bins"])
            models = {str(k): (number(w, 0.0), number(s)) for k, (w, s) in data["models"].items()}
            weight, seen = data["chosen"]
            share = data["target_share"]
            if len(bins) != BINS:
                raise ValueError(f"{len(bins)} bins")
            return cls(
                count(data["answers"]),
                count(data["judgements"]),
                None if share is None else number(share, 0.0, 1.0),
                bins,
                models,
                (number(weight, 0.0), number(seen)),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a router's health: {error!r}") from error
