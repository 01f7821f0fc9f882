"""Weights come back as they were saved, and damaged ones are refused, loudly."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from router.candidate import Candidate
from router.gain import GainModel
from router.store import (
    SHIPPED,
    WeightsError,
    load_model,
    load_or_shipped,
    save_model,
    shipped_model,
)

KNOWN = [Candidate("small"), Candidate("large")]


def test_what_is_saved_is_loaded(model: GainModel, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    save_model(model, path)
    again = load_model(path)
    prompts = ["What is 2 times 9, plus 12?", ""]
    before, after = model.predict(prompts, KNOWN), again.predict(prompts, KNOWN)
    assert after.quality == pytest.approx(before.quality, abs=0.01)
    assert after.cost == pytest.approx(before.cost, rel=0.02)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.npz"]


@pytest.mark.parametrize("damage", ["torn", "other", "absent", "changed"])
def test_damaged_weights_are_refused_and_the_shipped_ones_used(
    model: GainModel, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mine.npz"
    save_model(model, path)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "other":
        path.write_text("not weights")
    elif damage == "absent":
        path.unlink()
    else:
        with np.load(path) as stored:
            arrays = dict(stored)
        arrays["plain.0.heads"] = arrays["plain.0.heads"] + 1
        np.savez_compressed(path, **arrays)

    with pytest.raises(WeightsError, match=r"mine\.npz"):
        load_model(path)
    with caplog.at_level(logging.ERROR):
        loaded = load_or_shipped(path)

    assert loaded.path == SHIPPED
    assert loaded.model is shipped_model()
    assert loaded.refused is not None
    assert "shipped weights" in caplog.text


def test_the_shipped_weights_are_small_and_whole() -> None:
    assert SHIPPED.stat().st_size < 2_000_000
    model = load_or_shipped(None).model
    assert model.encoded is not None
    assert model.knows("gpt-4-1106")
    assert model.mean_cost("gpt-4-1106") is None
    assert 0 < (model.mean_cost("google/gemini-2.5-pro") or 0) < 1
