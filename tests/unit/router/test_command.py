"""`fusion router train` and `eval` from the command line, and how they end on bad input."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.data import Row
from router.gain import GainModel
from router.store import load_model, save_model
from serve.cli.router import app

run = CliRunner()


@pytest.fixture(scope="module")
def data(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl.gz"
    with gzip.open(path, "wt") as file:
        for row in rows[:50]:
            outcomes = {m: {"score": o.score, "cost": o.cost} for m, o in row.outcomes.items()}
            line = {"prompt": row.prompt, "task": row.task, "outcomes": outcomes}
            file.write(json.dumps(line) + "\n")
    return path


@pytest.fixture(scope="module")
def weights(model: GainModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.npz"
    save_model(model, path)
    return path


def test_train_writes_weights(data: Path, tmp_path: Path) -> None:
    done = run.invoke(app, ["train", str(data), "--out", str(tmp_path / "w.npz"), "--no-encoder"])
    assert done.exit_code == 0, done.output
    assert load_model(tmp_path / "w.npz").knows("small")


def test_eval_prints_one_object(data: Path, weights: Path) -> None:
    done = run.invoke(app, ["eval", str(data), "-w", str(weights), "--json", "--no-encoder"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["n"] == 50


def test_eval_prints_tables(data: Path, weights: Path) -> None:
    done = run.invoke(app, ["eval", str(data), "-w", str(weights), "--no-encoder"])
    assert done.exit_code == 0, done.output
    assert "apgr" in done.output
    assert "best constant mixture" in done.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["eval", "absent.jsonl"], "cannot be read"),
        (["eval", "DATA", "-w", "DATA"], "cannot be used"),
        (["eval", "DATA", "--map", "small"], "not of the form NAME=KNOWN"),
        (["eval", "DATA", "--map", "tiny=small", "--no-encoder"], "no model 'tiny'"),
        (["train", "absent.jsonl", "--out", "w.npz"], "cannot be read"),
        (["train", "DATA", "--out", "/nowhere/at/all/w.npz"], "there is no folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(data: Path, arguments: list[str], reason: str) -> None:
    done = run.invoke(app, [str(data) if word == "DATA" else word for word in arguments])
    assert done.exit_code == 2
    assert reason in done.stderr
    assert "Traceback" not in done.output
