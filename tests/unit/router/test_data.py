"""Training data is read strictly, and what is wrong is said with file and line."""

from __future__ import annotations

import gzip
import json
import os
import threading
from pathlib import Path

import pytest

from router.data import DataError, Outcome, parse_row, read_rows

GOOD = {
    "prompt": "Why?",
    "task": "t",
    "outcomes": {"a": {"score": 1}, "b": {"score": 0.5, "cost": 0}},
}


def write(path: Path, *lines: object) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def test_plain_and_gzipped_lines_are_one_list(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.jsonl", GOOD, "", GOOD)
    packed = tmp_path / "whatever.dat"
    packed.write_bytes(gzip.compress(json.dumps(GOOD).encode()))

    rows = read_rows([plain, packed])

    assert len(rows) == 3
    assert rows[0].outcomes["a"].score == 1.0
    assert rows[0].outcomes["a"].cost is None
    assert rows[2].outcomes["b"].cost == 0.0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ([1], "not a JSON object"),
        (GOOD | {"prompt": None}, "'prompt' is not a text"),
        (GOOD | {"outcomes": {}}, "'outcomes'"),
        (GOOD | {"outcomes": {"a": 1}}, "outcome of 'a'"),
        (GOOD | {"outcomes": {"a": {"score": "1"}}}, "score of 'a' is not a number"),
        (GOOD | {"outcomes": {"a": {"score": 1, "cost": True}}}, "cost of 'a' is not a number"),
        (GOOD | {"outcomes": {"a": {"score": 1.5}}}, "not within 0 to 1"),
        (GOOD | {"outcomes": {"a": {"score": float("nan")}}}, "not within 0 to 1"),
        (GOOD | {"outcomes": {"a": {"score": 1, "cost": -1}}}, "not a number of dollars"),
        (GOOD | {"outcomes": {"a": {"score": 1, "cost": float("inf")}}}, "not a number of dollars"),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path: Path, line: object, reason: str) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD, line, GOOD)
    with pytest.raises(DataError, match=rf"rows\.jsonl line 2: .*{reason}"):
        read_rows([path])


def test_files_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        read_rows([write(tmp_path / "empty.jsonl")])
    with pytest.raises(DataError, match="cannot be read"):
        read_rows([tmp_path / "absent"])
    with pytest.raises(DataError, match="no data files"):
        read_rows([])


def test_a_torn_gzip_file_and_odd_bytes_are_refused(tmp_path: Path) -> None:
    torn = tmp_path / "torn.gz"
    torn.write_bytes(gzip.compress(b"\n".join([json.dumps(GOOD).encode()] * 50))[:-12])
    with pytest.raises(DataError, match="breaks off"):
        read_rows([torn])
    odd = tmp_path / "odd"
    odd.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="line 1: not UTF-8"):
        read_rows([odd])


def test_unknown_fields_are_ignored() -> None:
    assert parse_row(json.dumps(GOOD | {"overlaps": [], "key": "x"})).task == "t"


@pytest.mark.parametrize("packed", [True, False])
def test_a_pipe_is_read_whole(tmp_path: Path, packed: bool) -> None:
    """What a shell gives for `<(zcat x)` can be read once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = "\n".join([json.dumps(GOOD)] * 3).encode()
    content = gzip.compress(text) if packed else text
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    rows = read_rows([pipe])
    writer.join()
    assert len(rows) == 3


def test_a_mark_before_the_first_line_is_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "marked.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert read_rows([path])[0].prompt == "Why?"


def test_true_is_a_score_of_one_and_false_of_none() -> None:
    row = parse_row(json.dumps({"prompt": "", "outcomes": {m: {"score": m == "a"} for m in "ab"}}))
    assert row.outcomes == {"a": Outcome(1.0), "b": Outcome(0.0)}
