"""What was spent, by whom and for what: the ledger's entries summed.

The sums are made in the store; what a question may ask and how an answer reads is here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast, get_args

import sqlalchemy as sa

from models.errors import BadRequest
from models.prices import usd
from serve.money.ledger import BRAIN, Limit, limits_of
from serve.store.database import Database
from serve.store.schema import accounts, entries, replica_hours, unknowns

#: What entries may be told apart by. `part` is brain or work, `day` and `month` are UTC.
By = Literal[
    "project", "key", "session", "job", "tier", "part", "role", "model", "day", "month", "request"
]
#: Columns that a question may fix to one value.
FILTERS = ("project", "key", "session", "job", "tier", "role", "model", "request")
_SUMS = ("input", "output", "cached", "cache_written", "reasoning")
_DAY_US = 86_400_000_000
#: More rows than this are not told; the question is too fine.
MOST_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Question:
    """`since` and `until` are seconds since the epoch: from, and up to without."""

    by: tuple[By, ...] = ("tier",)
    since: float | None = None
    until: float | None = None
    only: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """The sums of one group. `group` has a value for each of the question's `by`."""

    group: Mapping[str, str | None]
    calls: int
    input: int
    output: int
    cached: int
    cache_written: int
    reasoning: int
    nano_usd: int
    #: Calls whose bill is an upper bound, and calls whose model has no price.
    estimated: int
    unpriced: int


def question(asked: Sequence[tuple[str, str]]) -> Question:
    """The question in these parameters: `by` (several times, or with commas), `since`, `until`,
    and any of `FILTERS`. Raises BadRequest that names the wrong one."""
    given: dict[str, str] = {}
    words: list[str] = []
    for name, value in asked:
        if name == "by":
            words += filter(None, value.split(","))
        elif name in given:
            raise BadRequest(f"'{name}' stands twice.", param=name)
        else:
            given[name] = value
    for name, value in given.items():
        if name not in (*FILTERS, "since", "until"):
            known = ", ".join(("by", "since", "until", *FILTERS))
            raise BadRequest(f"Unknown parameter: '{name}'. Known: {known}.", param=name)
        if "\0" in value:  # which PostgreSQL takes in no text
            raise BadRequest(f"'{name}' holds a zero character.", param=name)
    since, until = given.pop("since", None), given.pop("until", None)
    return Question(
        by=parse_by(words),
        since=None if since is None else parse_time(since, "since"),
        until=None if until is None else parse_time(until, "until", end=True),
        only=tuple(given.items()),
    )


def parse_by(words: Sequence[str]) -> tuple[By, ...]:
    """Raises BadRequest for what entries cannot be told apart by."""
    for word in words:
        if word not in get_args(By):
            raise BadRequest(
                f"Usage cannot be told by '{word}'. It can by {', '.join(get_args(By))}.",
                param="by",
            )
    return cast(tuple[By, ...], tuple(dict.fromkeys(words))) or Question().by


def parse_time(text: str, name: str, *, end: bool = False) -> float:
    """A day (`2026-11-25`, the whole of it), a month, or a moment, as seconds. UTC."""
    try:
        if len(text) == 7:
            start = datetime.fromisoformat(f"{text}-01").replace(tzinfo=UTC)
            moment = (start + timedelta(days=31)).replace(day=1) if end else start
        else:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            if end and len(text) == 10:
                moment += timedelta(days=1)
        seconds = moment.timestamp()
        datetime.fromtimestamp(seconds, UTC)  # an offset may lead beyond the years that there are
        return seconds
    except (ValueError, OverflowError):
        raise BadRequest(
            f"'{name}' is not a time: write 2026-11, 2026-11-25 or 2026-11-25T10:00:00Z.",
            param=name,
        ) from None


async def rows(database: Database, question: Question) -> list[Row]:
    """The answer, the dearest group first; where it is told over time, the earliest."""
    columns = {name: _column(name) for name in question.by}
    sums = {name: sa.func.sum(entries.c[name]) for name in _SUMS}
    query = (
        sa.select(
            *(column.label(f"by_{name}") for name, column in columns.items()),
            sa.func.count().label("calls"),
            *(total.label(name) for name, total in sums.items()),
            sa.func.sum(sa.func.coalesce(entries.c.nano_usd, 0)).label("nano_usd"),
            sa.func.sum(sa.case((entries.c.basis != "exact", 1), else_=0)).label("estimated"),
            sa.func.sum(sa.case((entries.c.nano_usd.is_(None), 1), else_=0)).label("unpriced"),
        )
        .where(*_conditions(question))
        .group_by(*columns.values())
        .limit(MOST_ROWS + 1)
    )
    async with database.read() as connection:
        found = (await connection.execute(query)).all()
    if len(found) > MOST_ROWS:
        raise BadRequest(f"That is more than {MOST_ROWS} rows: ask for less time, or by less.")
    return _ordered(_merged(_row(question.by, dict(one._mapping)) for one in found), question.by)


async def answer(
    database: Database, question: Question, limits: Mapping[str, Limit], project: str | None
) -> dict[str, Any]:
    """The whole answer as JSON data; of accounts only what belongs to `project`, if named."""
    found = await rows(database, question)
    parted = await rows(database, replace(question, by=("tier", "part")))
    shared = {by: shares(parted, by) for by in ("tier", "part")}
    return told(question, found, shared) | await standing(database, limits, project)


async def standing(
    database: Database, limits: Mapping[str, Limit], project: str | None
) -> dict[str, Any]:
    """Accounts that have a limit, hold something or are frozen, the idle time of hosted models,
    and calls whose end nobody knows; only what belongs to `project`, if one is named."""
    mine = f"project:{project}"
    async with database.read() as connection:
        found = (await connection.execute(sa.select(accounts).order_by(accounts.c.name))).all()
        open_ends = (await connection.execute(sa.select(unknowns).order_by(unknowns.c.at))).all()
        hosted = (await connection.execute(sa.select(replica_hours))).all()
    told = []
    for row in found:
        limit = limits_of((row.name,), limits).get(row.name)
        if (limit or row.held or row.frozen) and (project is None or row.name == mine):
            told.append(_account(row, limit))
    if project is None:
        told += [_idle(row) for row in hosted]
    return {
        "accounts": told,
        "unknown": [
            {
                "id": row.id,
                "at": _iso(row.at),
                "held_usd": usd(row.amount),
                "why": row.why,
                "model": row.entry["model"] if row.entry else None,
            }
            for row in open_ends
            if project is None or (row.entry and row.entry["project"] == project)
        ],
    }


def told(
    question: Question, found: Sequence[Row], shared: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """The sums as JSON data. Money is decimal strings of US dollars."""
    return {
        "object": "usage",
        "by": list(question.by),
        "since": None if question.since is None else _iso(int(question.since * 1e6)),
        "until": None if question.until is None else _iso(int(question.until * 1e6)),
        "data": [{**row.group, **_sums(row)} for row in found],
        "total": _sums(_sum(found)),
        "shares": shared,
    }


def shares(found: Iterable[Row], by: str) -> dict[str, float]:
    """Each group's part of the dollars, or of the calls where nothing has a price."""
    parts: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for row in found:
        parts[str(row.group[by])] += row.nano_usd
        calls[str(row.group[by])] += row.calls
    counted = parts if parts.total() else calls
    return {name: round(part / counted.total(), 6) for name, part in counted.most_common()}


def _conditions(question: Question) -> list[sa.ColumnElement[bool]]:
    conditions = [entries.c[name] == value for name, value in question.only]
    if question.since is not None:
        conditions.append(entries.c.at >= int(question.since * 1e6))
    if question.until is not None:
        conditions.append(entries.c.at < int(question.until * 1e6))
    return conditions


def _column(name: str) -> sa.ColumnElement[Any]:
    if name in ("day", "month"):  # a month is summed of its days afterwards
        return entries.c.at // _DAY_US
    if name == "part":
        return sa.case((entries.c.role.in_(BRAIN), "brain"), else_="work")
    return entries.c[name]


def _row(by: Sequence[str], raw: Mapping[str, Any]) -> Row:
    group = {name: _said(name, raw[f"by_{name}"]) for name in by}
    numbers = ("calls", *_SUMS, "nano_usd", "estimated", "unpriced")
    # PostgreSQL's sums of whole numbers are decimals.
    return Row(group, **{name: int(raw[name] or 0) for name in numbers})


def _said(name: str, value: Any) -> str | None:
    if name in ("day", "month"):
        day = datetime.fromtimestamp(int(value) * 86_400, UTC)
        return day.strftime("%Y-%m-%d" if name == "day" else "%Y-%m")
    return None if value is None else str(value)


def _merged(found: Iterable[Row]) -> list[Row]:
    groups: dict[tuple[str | None, ...], list[Row]] = {}
    for row in found:
        groups.setdefault(tuple(row.group.values()), []).append(row)
    return [_sum(same, same[0].group) for same in groups.values()]


def _sum(found: Sequence[Row], group: Mapping[str, str | None] | None = None) -> Row:
    names = ("calls", *_SUMS, "nano_usd", "estimated", "unpriced")
    return Row(group or {}, **{name: sum(getattr(row, name) for row in found) for name in names})


def _ordered(found: list[Row], by: Sequence[str]) -> list[Row]:
    times = [name for name in by if name in ("day", "month")]
    return sorted(
        found,
        key=lambda row: (
            [row.group[name] or "" for name in times],
            -row.nano_usd,
            [value or "" for value in row.group.values()],
        ),
    )


def _sums(row: Row) -> dict[str, Any]:
    return {
        "calls": row.calls,
        "input_tokens": row.input,
        "output_tokens": row.output,
        "cached_tokens": row.cached,
        "cache_written_tokens": row.cache_written,
        "reasoning_tokens": row.reasoning,
        "cost_usd": usd(row.nano_usd),
        "estimated_calls": row.estimated,
        "unpriced_calls": row.unpriced,
    }


def _account(row: Any, limit: Limit | None) -> dict[str, Any]:
    bounds = {
        f"limit_{name}_usd": usd(bound)
        for name in ("total", "day", "month")
        if limit and (bound := getattr(limit, name)) is not None
    }
    return {
        "account": row.name,
        "settled_usd": usd(row.settled),
        "held_usd": usd(row.held),
        "frozen": row.frozen,
        **bounds,
    }


def _idle(row: Any) -> dict[str, Any]:
    return {
        "account": f"idle:{row.model}",
        "settled_usd": usd(row.hours - row.charged),
        "held_usd": "0",
        "frozen": None,
        "hours_usd": usd(row.hours),
        "charged_usd": usd(row.charged),
    }


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="seconds")
