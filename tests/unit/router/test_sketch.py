"""Rows of the training data are recognised, others are not."""

from __future__ import annotations

from router.sketch import SIZE, part_seen, sketch

TRAINED = [f"question {number}" for number in range(5_000)]
OTHERS = [f"problem {number}" for number in range(5_000)]


def test_what_was_seen_is_told_from_what_was_not() -> None:
    kept = sketch(TRAINED)
    assert len(kept) == SIZE
    assert part_seen(kept, TRAINED) == 1.0
    assert part_seen(kept, OTHERS) == 0.0
    half = part_seen(kept, TRAINED[:2_500] + OTHERS[:2_500])
    assert half is not None and 0.4 < half < 0.6
    assert part_seen(kept, ["  Question   7 "] * 20) in (None, 1.0)


def test_what_cannot_be_told() -> None:
    assert part_seen(sketch(TRAINED), ["one", "two"]) is None
    assert part_seen(sketch([]), TRAINED) is None
    assert part_seen(sketch(TRAINED[:100]), TRAINED[:200]) == 0.5
