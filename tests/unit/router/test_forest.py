"""Trees learn what depends on one number, say what they did not see, and survive a file."""

from __future__ import annotations

import numpy as np
import pytest

from router.forest import Forest, Growth, grow


def made(rows: int = 200) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    inputs = np.random.default_rng(0).random((rows, 3), dtype=np.float32)
    return inputs, np.stack([inputs[:, 1] > 0.5, inputs[:, 1] <= 0.5], axis=1).astype(float)


def test_a_step_is_learned_and_told_of_unseen_rows() -> None:
    inputs, values = made()
    forest, unseen = grow(inputs, values, values, Growth(trees=12, leaf=5, tried=1.0))
    mean, spread = forest.predict(np.array([[0, 0.9, 0], [0, 0.1, 0]], np.float32))
    assert mean[0, 0] > 0.8 > 0.2 > mean[1, 0]
    assert (spread >= 0).all()
    assert np.corrcoef(unseen[:, 0], values[:, 0])[0, 1] > 0.8


def test_one_row_and_many_rows_find_the_same_leaves() -> None:
    inputs, values = made()
    forest, _ = grow(inputs, values, values, Growth(trees=5, leaf=5))
    together = forest.leaves(inputs[:7])
    alone = np.vstack([forest.leaves(inputs[i : i + 1]) for i in range(7)])
    assert (together == alone).all()


def test_arrays_and_back() -> None:
    inputs, values = made()
    forest, _ = grow(inputs, values, values, Growth(trees=4, leaf=5))
    again = Forest.from_arrays("f", forest.to_arrays("f"), features=3)
    assert np.allclose(again.predict(inputs)[0], forest.predict(inputs)[0], atol=1e-3)


@pytest.mark.parametrize("name", ["f.feature", "f.step", "f.values", "f.roots", "f.threshold"])
def test_broken_arrays_are_refused(name: str) -> None:
    inputs, values = made()
    arrays = grow(inputs, values, values, Growth(trees=2, leaf=20))[0].to_arrays("f")
    with pytest.raises(ValueError, match="f"):
        Forest.from_arrays("f", {k: v for k, v in arrays.items() if k != name}, features=3)
    with pytest.raises(ValueError, match="f"):
        Forest.from_arrays("f", arrays | {name: np.full_like(arrays[name][:-1], 99)}, features=3)


def test_a_growth_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Growth(trees=0)
    with pytest.raises(ValueError, match="within 0 to 1"):
        Growth(drawn=1.0)
