"""Intervals: against published values, and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from serve.statistics import Interval, bootstrap, mean, paired, spread, wilson


def test_spread_is_that_of_the_population() -> None:
    assert spread([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx(2.0)
    assert spread([3.5]) == 0.0


def test_wilson_as_published() -> None:
    # Newcombe 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for got, low, high in ((81, 0.2553, 0.3662), (15, 0.0624, 0.1605)):
        found = wilson(got, {81: 263, 15: 148}[got])
        assert (found.low, found.high) == (
            pytest.approx(low, abs=1e-4),
            pytest.approx(high, abs=1e-4),
        )
    assert wilson(0, 20).high == pytest.approx(0.1611, abs=1e-4)
    assert wilson(1, 29).low == pytest.approx(0.0061, abs=1e-4)
    assert wilson(0, 0) == Interval(0.0, 0.0, 1.0)


def test_the_bootstrap_has_the_width_of_the_normal_one_and_is_repeatable() -> None:
    values = list(np.random.default_rng(3).normal(10, 2, 400))
    found = bootstrap(values)
    half = 1.96 * spread(values) / 20
    assert found.value == mean(values)
    assert found.low == pytest.approx(found.value - half, rel=0.01)
    assert found.high == pytest.approx(found.value + half, rel=0.01)
    assert bootstrap(values) == found


def test_pairing_cancels_what_tasks_have_in_common() -> None:
    hard = np.random.default_rng(4).uniform(0, 100, 50)
    ours, theirs = list(hard + 1), list(hard)
    found = paired(ours, theirs)
    assert (found.low, found.value, found.high) == pytest.approx((1, 1, 1))
    apart = bootstrap(ours).high - bootstrap(ours).low
    assert apart > 10


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired([1.0, 2.0], [1.0])
