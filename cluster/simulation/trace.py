"""Traces: when requests arrive and how many tokens they bring.

A trace file is CSV with the columns TIMESTAMP, ContextTokens and GeneratedTokens, the form of
the Azure LLM inference traces (Patel et al., Splitwise, ISCA 2024).
"""

from __future__ import annotations

import csv
import itertools
import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cluster.errors import TraceError

#: More than any model writes or reads.
_MOST_TOKENS = 10_000_000
#: What is longer is one row with a wrong date.
_MOST_DAYS = 60
_DAY_S = 86_400.0
COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests in order of arrival: seconds since the first, prompt and generated tokens.

    The three arrays are of equal length and never empty; `unsorted` counts the rows that came
    earlier than the row before them and were sorted in. Raises TraceError for anything else.
    """

    arrival_s: array[float]
    prompt_tokens: array[int]
    generated_tokens: array[int]
    unsorted: int = 0

    def __post_init__(self) -> None:
        if not self.arrival_s:
            raise TraceError("the trace is empty: it needs at least one request")
        if not len(self.arrival_s) == len(self.prompt_tokens) == len(self.generated_tokens):
            raise TraceError("the trace's columns differ in length")

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return self.arrival_s[-1]


def make_trace(rows: Iterable[tuple[float, int, int]]) -> Trace:
    """A trace from (seconds, prompt tokens, generated tokens), sorted here, started at zero.

    A request has at least one prompt and one generated token: a row of the log with none is
    counted as one, because a request that was answered took at least that. Raises TraceError
    where there is none, or the trace is longer than 60 days.
    """
    given = list(rows)
    unsorted = sum(1 for a, b in itertools.pairwise(given) if b[0] < a[0])
    ordered = sorted(given, key=lambda row: row[0]) if unsorted else given
    start = ordered[0][0] if ordered else 0.0
    if ordered and ordered[-1][0] - start > _MOST_DAYS * _DAY_S:
        row, days = _farthest([row[0] for row in ordered])
        raise TraceError(
            f"the trace spans more than {_MOST_DAYS} days: row {given.index(ordered[row]) + 1} is "
            f"{days:.1f} days from the next"
        )
    return Trace(
        array("d", (row[0] - start for row in ordered)),
        array("l", (max(1, row[1]) for row in ordered)),
        array("l", (max(1, row[2]) for row in ordered)),
        unsorted,
    )


def _farthest(times: list[float]) -> tuple[int, float]:
    """Which of these has the longest gap beside it, on the side of the fewer, and the gap in days:
    the one with a wrong date, if one has."""
    after = max(range(1, len(times)), key=lambda i: times[i] - times[i - 1])
    odd = after if after > len(times) / 2 else after - 1
    return odd, (times[after] - times[after - 1]) / _DAY_S


def read_trace(path: Path) -> Trace:
    """Read a trace file. TIMESTAMP is a date and time (any digits of a second) or seconds.

    Raises TraceError with the line for a missing column, a row that does not parse, or an
    empty file. Rows out of order are sorted and counted, gaps are kept.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            # Where there is no header its field names are no list yet, and the trace is empty.
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            missing = [name for name in COLUMNS if name not in reader.fieldnames]
            if missing and reader.fieldnames:
                raise TraceError(f"the trace {path} has no column {', '.join(missing)}")
            return make_trace(_row(row, reader.line_num, path) for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"cannot read the trace {path}: {error}") from None


def _row(row: dict[str, str], line: int, path: Path) -> tuple[float, int, int]:
    try:
        prompt, generated = _tokens(row[COLUMNS[1]]), _tokens(row[COLUMNS[2]])
        at = _seconds(row[COLUMNS[0]])
    except (TypeError, ValueError, OverflowError):
        raise TraceError(
            f"line {line} of the trace {path} is no request: "
            "it needs a time and two whole numbers of tokens"
        ) from None
    if max(prompt, generated) > _MOST_TOKENS:
        raise TraceError(f"line {line} of the trace {path} has more than {_MOST_TOKENS:,} tokens")
    if prompt < 0 or generated < 0:
        raise TraceError(f"line {line} of the trace {path} has a negative number of tokens")
    return at, prompt, generated


def _tokens(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        value = float(text)  # as pandas writes whole numbers of a column with gaps: 374.0
        if not value.is_integer():
            raise
        return int(value)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        # The logs write seven digits of a second, Python reads six.
        head, _, fraction = text.strip().partition(".")
        digits = fraction[: len(fraction) - len(fraction.lstrip("0123456789"))]
        rest = fraction[len(digits) :]
        moment = datetime.fromisoformat(head + rest)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)  # and not what this machine's clocks show
        return moment.timestamp() + (float(f"0.{digits}") if digits else 0.0)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def rescale(trace: Trace, rate_scale: int) -> Trace:
    """The same trace `rate_scale` times as busy: each request that often, copy i delayed by
    i / rate_scale of the gap to the next arrival. Keeps the rhythm, the gaps and the mix."""
    if rate_scale <= 1:
        return trace
    times, count = trace.arrival_s, len(trace)
    arrivals = array("d")
    for i in range(count):
        gap = (times[i + 1] - times[i]) / rate_scale if i + 1 < count else 0.0
        arrivals.extend(times[i] + gap * copy for copy in range(rate_scale))
    return Trace(
        arrivals,
        array("l", (n for n in trace.prompt_tokens for _ in range(rate_scale))),
        array("l", (n for n in trace.generated_tokens for _ in range(rate_scale))),
        trace.unsorted,
    )
