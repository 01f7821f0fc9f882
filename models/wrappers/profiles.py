"""Families of models and their habits, as data: `profiles.yaml` says what the words mean."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import TypeAdapter

from models.record import Record

Marks = tuple[tuple[str, str], ...]


class Profile(Record):
    """One family. `profiles.yaml` says what each word means."""

    family: str
    match: tuple[str, ...]
    think: Marks = ()
    begins: bool = False
    calls: Marks = ()
    name: tuple[str, ...] = ("name", "tool", "function")
    arguments: tuple[str, ...] = ("arguments", "parameters", "input", "args")


def _read() -> tuple[Profile, ...]:
    text = Path(__file__).with_name("profiles.yaml").read_text("utf-8")
    return TypeAdapter(tuple[Profile, ...]).validate_python(yaml.safe_load(text))


_PROFILES = _read()
FAMILIES = tuple(profile.family for profile in _PROFILES)


def profile_of(*names: str | None, family: str | None = None) -> Profile:
    """The family of this name, or that of a model by any of its names."""
    if family is not None:
        return next(profile for profile in _PROFILES if profile.family == family)
    known = " ".join(name.lower() for name in names if name)
    return next(profile for profile in _PROFILES if any(part in known for part in profile.match))
