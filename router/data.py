"""What really happened when models answered: gzipped JSON lines, read strictly.

One row a line: `id`, `prompt`, `task`, `source` and `outcomes`, an object from model name to
`{"score": 0..1, "cost": dollars or absent}`; a score of true is 1, of false 0. Other fields are
ignored.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeGuard, cast

_GZIP = b"\x1f\x8b"


class DataError(ValueError):
    """A data file that cannot be used. The message names file and line and what is wrong."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one model made of one prompt: a score from 0 to 1 and, where known, dollars."""

    score: float
    cost: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score {self.score} is not within 0 to 1")
        if self.cost is not None and not (self.cost >= 0.0 and math.isfinite(self.cost)):
            raise ValueError(f"cost {self.cost} is not a number of dollars")


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and the outcomes of every model that answered it."""

    prompt: str
    outcomes: Mapping[str, Outcome]
    task: str = ""
    source: str = ""
    id: str = ""

    def __post_init__(self) -> None:
        if not self.outcomes:
            raise ValueError("no outcomes")


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """All rows of the files, in order; plain or gzipped, whatever they are called.

    Raises DataError, with the line number, for the first row that breaks the format, and for
    a file without rows.
    """
    rows: list[Row] = []
    for path in paths:
        before = len(rows)
        rows.extend(_read_file(path))
        if len(rows) == before:
            raise DataError(f"{path}: no rows")
    if not rows:
        raise DataError("no data files")
    return rows


def parse_row(text: str) -> Row:
    """One line as a row. Raises ValueError with the reason in words."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg})") from error
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  a broken row, not a bug
    prompt, outcomes = value.get("prompt"), value.get("outcomes")
    if not isinstance(prompt, str):
        raise ValueError("'prompt' is not a text")  # noqa: TRY004  a broken row, not a bug
    if not isinstance(outcomes, dict) or not outcomes:
        raise ValueError("'outcomes' is not an object of model names")
    return Row(
        prompt=prompt,
        outcomes={model: _parse_outcome(model, outcome) for model, outcome in outcomes.items()},
        task=str(value.get("task") or ""),
        source=str(value.get("source") or ""),
        id=str(value.get("id") or ""),
    )


def _parse_outcome(model: str, outcome: Any) -> Outcome:
    if not isinstance(outcome, dict):
        raise ValueError(f"the outcome of {model!r} is not an object")  # noqa: TRY004  a broken row, not a bug
    score, cost = outcome.get("score"), outcome.get("cost")
    if not isinstance(score, bool) and not _is_number(score):
        raise ValueError(f"the score of {model!r} is not a number")
    if cost is not None and not _is_number(cost):
        raise ValueError(f"the cost of {model!r} is not a number")
    try:
        return Outcome(float(score), None if cost is None else float(cost))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{model!r}: {error}") from error


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_file(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with _open(path) as lines:
            for line in lines:
                number += 1
                # Some editors put a mark before the first line.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield parse_row(text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path}: cannot be read: {reason}") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: the gzip data breaks off after line {number}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} line {number}: not UTF-8") from error
    except ValueError as error:
        raise DataError(f"{path} line {number}: {error}") from error


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """Opened once: what was read of a pipe is gone."""
    with path.open("rb") as file:
        if file.peek(2)[:2] != _GZIP:
            yield file
            return
        with gzip.open(file) as unpacked:
            yield cast(IO[bytes], unpacked)
