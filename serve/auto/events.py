"""Routes and lessons as JSON, the form in which the store keeps them."""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from router.arrays import Floats
from router.learner import Lesson
from router.live import Answered, Event, Heard, Judged, Looked

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """How one answer of `fusion/auto` came about.

    first: the model that the choice was about; last: the one whose answer was given. shown: the
    signs of the cheap answer that was looked at. Both are None where a panel answered.
    """

    project: str
    id: str
    first: str | None
    last: str | None
    context: Floats
    eye: str
    expected: Mapping[str, float]
    predicted: Mapping[str, float]
    known: Mapping[str, bool]
    propensity: float = 1.0
    shown: Mapping[str, bool] = field(default_factory=dict)

    def judged(self, score: float) -> list[Event]:
        """What a judgement of the answer teaches."""
        if self.last is None or self.last not in self.expected:
            return []  # nothing was expected of who answered in the choice's place
        learned: list[Event] = [
            Judged(self.lesson(self.last, score), self.predicted[self.last], self.propensity)
        ]
        if self.shown and self.last == self.first:
            learned.append(Looked(self.shown, score))
        return learned

    def lesson(self, model: str, score: float, weight: float = 1.0) -> Lesson:
        """A lesson about one of its models."""
        return Lesson(
            model,
            self.context,
            self.eye,
            self.expected[model],
            score,
            weight,
            self.known.get(model, False),
        )

    def to_json(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in _ROUTE}
        return found | {"context": _packed(self.context)}

    @classmethod
    def from_json(cls, project: str, id: str, data: Mapping[str, Any]) -> Route:
        told = {name: data[name] for name in _ROUTE}
        return cls(project, id, context=_unpacked(data["context"]), **told)


_ROUTE = ("first", "last", "eye", "expected", "predicted", "known", "propensity", "shown")
_KINDS: dict[str, type[Any]] = {
    "answered": Answered,
    "judged": Judged,
    "looked": Looked,
    "heard": Heard,
}


def write(event: Event) -> dict[str, Any]:
    """An event as JSON data."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(event, cls))
    if isinstance(event, Judged):
        lesson = event.lesson
        plain = replace(event, lesson=replace(lesson, context=np.zeros(0, np.float32)))
        told = asdict(plain)
        told["lesson"]["context"] = _packed(lesson.context)
    else:
        told = asdict(event)
    return {"kind": kind, **told}


def read(data: Mapping[str, Any]) -> Event | None:
    """The event of such data; None, and a line in the log, where a later version wrote it."""
    try:
        told = dict(data)
        kind = _KINDS[told.pop("kind")]
        if kind is Judged:
            lesson = dict(told.pop("lesson"))
            context = _unpacked(lesson.pop("context"))
            return Judged(Lesson(context=context, **lesson), **told)
        made: Event = kind(**told)
        return made
    except (KeyError, TypeError, ValueError) as error:
        _log.warning("a lesson of the router cannot be read and is left out: %r", error)
        return None


def _packed(numbers: Floats) -> str:
    return base64.b64encode(numbers.astype("<f2").tobytes()).decode()


def _unpacked(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float32)
