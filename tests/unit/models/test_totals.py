"""What a replica tells the scaling rule."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from models.workforce.totals import ELSEWHERE, Totals
from models.workforce.turns import TICKET


async def chunks(*, usage: bool = True) -> AsyncGenerator[dict[str, Any], None]:
    yield {"choices": [{"delta": {"content": "a"}}]}
    yield {"choices": [{"delta": {"content": "b"}}]}
    if usage:
        yield {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}


class Ticks:
    """A clock that goes on by so many seconds at each look."""

    def __init__(self, step_s: float) -> None:
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


async def test_a_stream_passes_unchanged_and_is_counted() -> None:
    totals = Totals(2.0, Ticks(1.0))
    assert len([chunk async for chunk in totals.streamed(chunks())]) == 3
    assert totals.as_stats() == {
        "answered": 1,
        "prompt_tokens": 7,
        "generated_tokens": 2,
        "first_tokens": 1,
        "late": 0,
        "elsewhere": 0,
        "asked": 0,
        "patient": 0,
    }


async def test_a_late_first_token_is_late_once() -> None:
    totals = Totals(0.5, Ticks(1.0))
    [_ async for _ in totals.streamed(chunks())]
    assert totals.as_stats()["late"] == 1


async def test_a_stream_that_is_closed_closes_what_it_reads_and_counts() -> None:
    totals, source = Totals(2.0), chunks(usage=False)
    reader = totals.streamed(source)
    await anext(reader)
    await reader.aclose()
    assert [chunk async for chunk in source] == []
    assert totals.as_stats()["answered"] == 1


def test_whole_answers_count_and_have_no_first_token() -> None:
    totals = Totals(2.0)
    totals.answered({"usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    totals.answered({"error": {}})
    assert totals.as_stats() == {
        "answered": 2,
        "prompt_tokens": 3,
        "generated_tokens": 4,
        "first_tokens": 0,
        "late": 0,
        "elsewhere": 0,
        "asked": 0,
        "patient": 0,
    }


def test_what_went_elsewhere_is_counted_and_taken_off_the_request() -> None:
    totals = Totals(2.0)
    written = {ELSEWHERE: 3, TICKET: ("me", False, 1.0)}
    assert totals.noticed({"messages": [], **written}) == {"messages": []}
    assert totals.noticed({"messages": []}) == {"messages": []}
    assert totals.as_stats()["elsewhere"] == 3


def test_requests_that_nobody_waits_for_are_counted() -> None:
    totals = Totals(2.0)
    totals.noticed({TICKET: ("me", True, 1.0)})
    totals.noticed({TICKET: ("me", False, 1.0)})
    totals.noticed({})
    assert (totals.as_stats()["asked"], totals.as_stats()["patient"]) == (3, 1)
