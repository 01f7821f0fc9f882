"""Results in a folder: whole or not at all, and nobody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from serve.jobs import output
from serve.jobs.estimate import estimate
from serve.jobs.export import SCHEMA


def row(number: int, **changes: Any) -> dict[str, Any]:
    told = dict.fromkeys(SCHEMA) | {
        "id": f"r{number}",
        "line": number,
        "status": "done",
        "answer": "ü",
        "input_tokens": 3,
        "output_tokens": number,
        "seconds": 2.0,
        "cost_usd": "0.001",
        "reused": False,
    }
    return told | changes


def test_lines_and_parquet_say_the_same(tmp_path: Path) -> None:
    rows = [row(1), row(2, status="failed", answer=None, error="no", cost_usd=None)]
    lines = output.write(tmp_path, rows, "jsonl")
    table = parquet.read_table(output.write(tmp_path, rows, "parquet"))
    assert [json.loads(line) for line in lines.read_text().splitlines()] == rows
    assert table.to_pylist() == rows
    assert table.schema.names == list(SCHEMA)
    assert not list(tmp_path.glob("*.part"))


def test_many_rows_are_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_GROUP", 10)
    path = output.write(tmp_path, (row(n) for n in range(25)), "parquet")
    assert parquet.ParquetFile(path).num_row_groups == 3


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = output.write(tmp_path, [row(1)], "jsonl")
    before = path.read_text()

    def breaks() -> Any:
        yield row(2)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        output.write(tmp_path, breaks(), "jsonl")
    assert path.read_text() == before
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_belongs_to_one_batch(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert output.owner_of(folder) is None
    output.claim(folder, "batch_a")
    output.claim(folder, "batch_a")
    with pytest.raises(ValueError, match="holds the results of batch_a"):
        output.claim(folder, "batch_b")
    (folder / output.MARK).write_text("[]")
    with pytest.raises(ValueError, match="something unknown"):
        output.claim(folder, "batch_a")


def test_an_estimate_has_the_sample_s_mean_and_an_interval() -> None:
    sample = [row(n) for n in (1, 2, 3)] + [row(4, status="failed")]
    found = estimate(sample, rows=100, seconds=3.0)
    assert (found.rows, found.sampled, found.failed) == (100, 4, 1)
    assert found.tokens is not None
    assert found.tokens.value == pytest.approx(500)
    assert 400 <= found.tokens.low < 500 < found.tokens.high <= 600
    assert found.usd is not None
    assert found.usd.value == pytest.approx(0.1)
    # Three rows of two seconds in three: two at a time, so a hundred take a hundred seconds.
    assert found.hours is not None
    assert found.hours.value == pytest.approx(100 / 3600)


def test_what_a_sample_does_not_tell_is_unknown() -> None:
    reused = estimate([row(1, reused=True, cost_usd=None)], rows=10, seconds=0.0)
    assert reused.tokens is not None
    assert (reused.usd, reused.hours) == (None, None)
    assert estimate([row(1, status="failed")], rows=10, seconds=1.0).tokens is None
