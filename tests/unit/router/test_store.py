"""Weights come back as they were saved, and damaged ones are refused, loudly."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router.candidate import Candidate
from router.data import Outcome, Row
from router.forest import Growth
from router.gain import GainModel
from router.store import (
    SHIPPED,
    WeightsError,
    load_model,
    load_or_shipped,
    save_model,
    shipped_model,
)
from router.train import train

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


@pytest.mark.parametrize(
    "error", [NotImplementedError, RuntimeError, MemoryError], ids=lambda one: str(one.__name__)
)
def test_weights_that_cannot_be_unpacked_are_refused(
    model: GainModel, tmp_path: Path, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.npz"
    save_model(model, path)

    def broken(*_: object, **__: object) -> None:
        raise error("an unknown way to pack")

    monkeypatch.setattr(np, "load", broken)
    with pytest.raises(WeightsError, match="an unknown way to pack"):
        load_model(path)


@pytest.mark.parametrize("prompt", ["", "hello world"])
def test_weights_learned_from_prompts_that_are_all_the_same_can_be_read(
    prompt: str, tmp_path: Path
) -> None:
    outcomes = {"small": Outcome(0.2), "large": Outcome(0.9)}
    model = train([Row(prompt, outcomes)] * 60, growth=Growth(trees=4, leaf=5))
    save_model(model, tmp_path / "mine.npz")
    found = load_model(tmp_path / "mine.npz").predict([prompt], KNOWN)
    assert found.quality[0] == pytest.approx([0.2, 0.9], abs=0.01)


def test_weights_that_could_not_be_read_back_are_not_left_there(
    model: GainModel, tmp_path: Path
) -> None:
    endless = replace(model.plain.sight, axes=model.plain.sight.axes + np.inf)
    with pytest.raises(WeightsError, match="not finite"):
        save_model(GainModel(replace(model.plain, sight=endless)), tmp_path / "mine.npz")
    assert not list(tmp_path.iterdir())
