"""The systems of an evaluation: one YAML file, checked strictly.

systems:
  small:   {model: smollm2}                             # a model, an alias, a panel's name
  pair:    {panel: [smollm2, qwen3-8b], judge: qwen3-8b}
  self:    {panel: [smollm2, smollm2], judge: smollm2}  # the same model fused with itself
  votes:   {model: smollm2, samples: 5, temperature: 0.8}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models import yaml_lines


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _System(_Strict):
    model: str | None = None
    panel: list[str] | None = Field(None, min_length=1, max_length=8)
    judge: str | None = None
    #: How many answers are asked for; where answers can be compared, the most frequent one counts.
    samples: int = Field(1, ge=1, le=64)
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_of_them(self) -> _System:
        if (self.model is None) == (self.panel is None):
            raise ValueError("give 'model' or 'panel', and not both")
        if self.panel is not None and self.judge is None:
            raise ValueError("a panel needs a 'judge', which also writes the answer")
        if self.panel is None and self.judge is not None:
            raise ValueError("'judge' goes with 'panel'")
        return self


class _File(_Strict):
    systems: dict[str, _System] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class System:
    """Something that answers. `body` is what its requests have beside the messages."""

    name: str
    body: Mapping[str, Any]
    #: `solo`, `panel`, `self-fused` or `votes`.
    kind: str
    samples: int = 1
    #: The model, where it is one alone: whose outcomes the router learns.
    model: str | None = None
    #: Calls to models that one of its answers takes, where that is known here.
    calls: int | None = None


def read_systems(path: Path) -> list[System]:
    """Raises ValueError with a line for each problem, or OSError."""
    try:
        document = yaml_lines.read(path.read_text(encoding="utf-8"), first="systems:")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: it is not UTF-8 text") from None
    if document.problems:
        raise ValueError("\n".join(one.render(str(path)) for one in document.problems))
    try:
        file = _File.model_validate(document.data)
    except ValidationError as error:
        lines = (
            f"{path}: {'.'.join(map(str, one['loc']))}: {one['msg']}"
            for one in error.errors(include_url=False)
        )
        raise ValueError("\n".join(lines)) from None
    return [_system(name, one) for name, one in file.systems.items()]


def _system(name: str, raw: _System) -> System:
    body: dict[str, Any] = {}
    if raw.temperature is not None:
        body["temperature"] = raw.temperature
    if raw.max_tokens is not None:
        body["max_tokens"] = raw.max_tokens
    if raw.panel is None:
        body["model"] = raw.model
        kind = "votes" if raw.samples > 1 else "solo"
        return System(name, body, kind, raw.samples, raw.model, raw.samples)
    body |= {
        "model": "openrouter/fusion",
        "plugins": [{"id": "fusion", "analysis_models": raw.panel, "model": raw.judge}],
    }
    kind = "self-fused" if {*raw.panel, raw.judge} == {raw.judge} else "panel"
    # Each panelist, the judge and the synthesis.
    return System(name, body, kind, raw.samples, None, raw.samples * (len(raw.panel) + 2))


def with_baselines(systems: list[System]) -> list[System]:
    """The systems, and beside each panel its judge alone and its judge fused with itself, with as
    many panelists: a panel's score is told beside these.
    """
    made = list(systems)
    known = set(map(_what, systems))
    for one in systems:
        if one.model is not None:
            continue
        [fusion] = one.body["plugins"]
        judge, count = str(fusion["model"]), len(fusion["analysis_models"])
        given = {k: one.body[k] for k in ("temperature", "max_tokens") if k in one.body}
        for name, raw in (
            (f"{judge} alone", _System(model=judge, **given)),
            (f"{judge} fused x{count}", _System(panel=[judge] * count, judge=judge, **given)),
        ):
            baseline = _system(_free(name, made), raw)
            if _what(baseline) not in known:
                known.add(_what(baseline))
                made.append(baseline)
    return made


def _free(name: str, made: list[System]) -> str:
    """This name, or with a number where another system has it."""
    taken = {one.name for one in made}
    names = (name, *(f"{name} ({number})" for number in range(2, len(taken) + 2)))
    return next(one for one in names if one not in taken)


def _what(one: System) -> str:
    """What a system asks, whatever it is called."""
    return json.dumps([one.samples, one.body], sort_keys=True)


def with_matched(systems: list[System]) -> list[System]:
    """The systems, and beside each panel its writer alone with as many calls, which vote.

    What a panel is worth is what it is above that.
    """
    made = list(systems)
    known = {(one.model, one.samples) for one in systems}
    for one in systems:
        if one.model is not None or one.calls is None:
            continue
        writer = str(one.body["plugins"][0]["model"])
        if (writer, one.calls) not in known:
            known.add((writer, one.calls))
            rest = {key: value for key, value in one.body.items() if key != "plugins"}
            # Votes of one and the same answer would be one vote.
            body = {"temperature": 0.7} | rest | {"model": writer}
            name = _free(f"{writer} x{one.calls}", made)
            made.append(System(name, body, "votes", one.calls, writer, one.calls))
    return made
