from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.flagship.headers import Left, Seen, seen
from models.flagship.rates import Rate


def test_a_minute_frees_what_it_took() -> None:
    rate = Rate(10)
    assert rate.take(7, now=0) == 7
    assert rate.take(7, now=30) == 3
    assert rate.take(7, now=59) == 0
    assert rate.take(7, now=60) == 7


def test_it_says_how_long_to_wait() -> None:
    rate = Rate(2)
    rate.take(1, now=0)
    rate.take(1, now=10)
    assert rate.wait_s(now=20) == 40
    assert Rate(None).wait_s(now=0) == 0


def test_what_comes_back_can_be_taken_again() -> None:
    rate = Rate(5)
    rate.take(5, now=0)
    rate.give_back(3)
    assert rate.take(5, now=1) == 3


def test_history_is_what_still_counts() -> None:
    rate = Rate(100)
    rate.charge(5, now=0)
    rate.charge(2, now=50)
    assert rate.history(now=55) == ((55, 5), (5, 2))
    assert rate.history(now=61) == ((11, 2),)


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 9), st.booleans()), max_size=60),
)
def test_in_no_minute_is_more_taken_than_there_is(
    limit: int, steps: list[tuple[float, int, bool]]
) -> None:
    rate, now = Rate(limit), 0.0
    kept: list[tuple[float, int]] = []
    for later, n, returned in steps:
        now += later
        granted = rate.take(n, now)
        if returned:
            rate.give_back(granted)
        else:
            kept.append((now, granted))
        assert sum(n for at, n in kept if at > now - 60) <= limit


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        (
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-limit-tokens": "1000",
                "x-ratelimit-remaining-tokens": "900",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            Seen(Left(60, 59), Left(1000, 900)),
        ),
        (
            {
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-remaining": "49",
                "anthropic-ratelimit-input-tokens-limit": "30000",
                "anthropic-ratelimit-input-tokens-remaining": "29000",
            },
            Seen(Left(50, 49), Left(30000, 29000)),
        ),
        ({"x-ratelimit-limit-tokens": "-1", "x-ratelimit-remaining-tokens": "-1"}, None),
        ({"x-ratelimit-limit-tokens": "0", "x-ratelimit-remaining-tokens": "0"}, None),
        ({"x-ratelimit-limit-tokens": "many", "x-ratelimit-remaining-tokens": "1"}, None),
        ({"x-ratelimit-limit-tokens": "10"}, None),
    ],
)
def test_what_headers_say(headers: dict[str, str], found: Seen | None) -> None:
    assert seen(headers) == found


@given(st.dictionaries(st.sampled_from(["x-ratelimit-limit-requests", "retry-after"]), st.text()))
def test_no_header_is_a_trap(headers: dict[str, str]) -> None:
    assert seen(headers) is None
