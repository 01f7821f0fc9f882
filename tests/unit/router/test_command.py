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


def test_eval_prints_one_object_and_nothing_else(data: Path, weights: Path) -> None:
    done = run.invoke(app, ["eval", str(data), "-w", str(weights), "--json", "--no-encoder"])
    assert done.exit_code == 0, done.output
    # What else there is to say goes to the other stream.
    assert "were in the training data" in done.stderr
    told = json.loads(done.stdout, parse_constant=pytest.fail)
    assert (told["n"], told["models"]) == (50, ["small", "large"])
    assert told["apgr"] > 0.5 and 0 <= told["cpt50"] <= told["cpt80"] <= 1
    assert {"random", "prompt_length", "best_constant", "oracle"} <= set(told["baselines"])
    assert {*told["curve"][0]} == {"cost", "quality"}
    assert {*told["constants"]["large"]} == {"cost", "quality", "router_quality_at_cost"}
    assert told["cost_ratio_at_best_quality"] is None or told["cost_ratio_at_best_quality"] > 0


def test_eval_says_what_it_leaves_out(data: Path, weights: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "lonely.jsonl"
    lonely.write_text(json.dumps({"prompt": "Why?", "outcomes": {"small": {"score": 1}}}))
    arguments = ["eval", str(data), str(lonely), "-w", str(weights), "--json", "--no-encoder"]
    done = run.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "rows left out, which not all models answered: 1" in done.stderr
    told = json.loads(done.stdout)
    assert (told["n"], told["skipped"]["rows"]) == (50, 1)


def test_a_broken_row_is_named_by_file_and_line(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    good = json.dumps({"prompt": "Why?", "outcomes": {"a": {"score": 1}, "b": {"score": 0}}})
    broken.write_text(f"{good}\n{good[:-5]}\n")
    for command in (["train", "--out", str(tmp_path / "w.npz")], ["eval", "--json"]):
        done = run.invoke(app, [*command, str(data), str(broken)])
        assert (done.exit_code, done.stdout) == (2, "")
        assert "broken.jsonl line 2: not JSON" in done.stderr
    assert not (tmp_path / "w.npz").exists()


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
        (["import", "absent.json"], "No such file"),
        (["import", "DATA"], "is not what `fusion router export` wrote"),
        (["train", "DATA", "--out", "/nowhere/at/all/w.npz"], "there is no folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(data: Path, arguments: list[str], reason: str) -> None:
    done = run.invoke(app, [str(data) if word == "DATA" else word for word in arguments])
    assert done.exit_code == 2
    assert reason in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "content",
    ["", "learned", "[1]", "{}", '{"format": ', "[" * 99_000],
    ids=["empty", "words", "a list", "an empty object", "torn", "deep"],
)
def test_what_export_did_not_write_is_not_imported(tmp_path: Path, content: str) -> None:
    """No server is asked: there is none here."""
    file = tmp_path / "state.json"
    file.write_text(content)
    done = run.invoke(app, ["import", str(file)])
    assert done.exit_code == 2
    assert "is not what `fusion router export` wrote" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
