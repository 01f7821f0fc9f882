"""Trace files: times in several forms, gaps kept, disorder sorted, anything else refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import TraceError
from cluster.simulation.trace import make_trace, read_trace, rescale

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text)
    return path


def test_dates_with_seven_digits_of_a_second(tmp_path: Path) -> None:
    rows = "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    trace = read_trace(written(tmp_path, HEAD + rows))
    assert list(trace.arrival_s) == pytest.approx([0.0, 4.314579])
    assert list(trace.generated_tokens) == [44, 109]


def test_a_time_without_a_zone_is_not_this_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")  # where this night has an hour less
    time.tzset()
    rows = "2024-03-31 01:59:59,1,1\n2024-03-31 03:00:00,1,1\n"
    try:
        assert list(read_trace(written(tmp_path, HEAD + rows)).arrival_s) == [0.0, 3601.0]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_seconds_and_gaps(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, HEAD + "5,10,1\n100005,10,1\n"))
    assert list(trace.arrival_s) == [0.0, 100_000.0]


def test_rows_out_of_order_are_sorted_and_counted(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, HEAD + "3,30,1\n1,10,1\n2,20,1\n"))
    assert list(trace.prompt_tokens) == [10, 20, 30]
    assert trace.unsorted == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (HEAD, "empty"),
        ("TIMESTAMP,ContextTokens\n1,2\n", "no column GeneratedTokens"),
        (HEAD + "1,2,3\nsoon,2,3\n", "line 3"),
        (HEAD + "1,2\n", "line 2"),
        (HEAD + "nan,2,3\n", "line 2"),
        (HEAD + "1,-2,3\n", "negative"),
        (HEAD + f"1,2,{10**20}\n", "line 2"),
        (HEAD + "1,2,3.5\n", "line 2"),
        (HEAD + "1,2,inf\n", "line 2"),
        (HEAD + "1,2,10000001\n", "more than 10,000,000 tokens"),
        (HEAD + "2024-05-01,2,3\n2042-05-02,2,3\n2024-05-03,2,3\n", "60 days: row 2 is 65"),
        (HEAD + "1924-05-01,2,3\n2024-05-02,2,3\n2024-05-03,2,3\n", "60 days: row 1 is 36"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(TraceError, match=says):
        read_trace(written(tmp_path, text))


def test_numbers_and_names_as_other_programs_write_them(tmp_path: Path) -> None:
    text = " TIMESTAMP, ContextTokens ,GeneratedTokens\n1,374.0,44.0\n"
    trace = read_trace(written(tmp_path, text))
    assert (list(trace.prompt_tokens), list(trace.generated_tokens)) == ([374], [44])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot read"):
        read_trace(tmp_path / "none.csv")


def test_rescale_spreads_copies_over_the_gap_to_the_next() -> None:
    busier = rescale(make_trace([(0, 1, 1), (10, 2, 2)]), 5)
    assert list(busier.arrival_s) == [0, 2, 4, 6, 8, 10, 10, 10, 10, 10]
    assert list(busier.prompt_tokens) == [1] * 5 + [2] * 5


rows = st.lists(
    st.tuples(st.floats(0, 1e6), st.integers(0, 9000), st.integers(0, 900)), min_size=1, max_size=50
)


@given(rows, st.integers(1, 12))
def test_a_trace_is_always_sorted_from_zero(
    given_rows: list[tuple[float, int, int]], scale: int
) -> None:
    trace = rescale(make_trace(given_rows), scale)
    assert len(trace) == scale * len(given_rows)
    assert trace.arrival_s[0] == 0
    assert list(trace.arrival_s) == sorted(trace.arrival_s)
    assert min(trace.prompt_tokens) >= 1
