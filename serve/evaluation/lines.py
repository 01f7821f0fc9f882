"""Files of JSON lines, one thing with an id a line: read whole, every problem by its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import ValidationError


class Named(Protocol):
    @property
    def id(self) -> str: ...


Made = TypeVar("Made", bound=Named)


class LinesError(ValueError):
    """A file that is not in its format. The message has one line a problem."""


def read(path: Path, parse: Callable[[bytes], Made], things: str) -> list[Made]:
    """What `parse` makes of each line that is not blank. `things` names them where there are none.

    `parse` raises ValueError with the reason in words. Raises LinesError with every problem, ids
    that stand twice too, or OSError.
    """
    found: list[Made] = []
    problems: list[str] = []
    first: dict[str, int] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                made = parse(line)
                if made.id in first:
                    raise ValueError(f"the id '{made.id}' stands in line {first[made.id]} already")
            except ValueError as error:
                problems.append(f"{path} line {number}: {error}")
            else:
                first[made.id] = number
                found.append(made)
    if problems or not found:
        raise LinesError("\n".join(problems) or f"{path}: no {things}")
    return found


def reason(error: ValidationError) -> str:
    """The first thing that a model of pydantic found, with its place."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])
