"""Many processes that open one new file at once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from models.wal import use_wal


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody who writes to a file that is not in the mode yet."""
    file = tmp_path / "x.db"
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as made:
        made.execute("create table t(x)")
        made.execute("begin immediate")
        yield made


def test_the_switch_waits_for_who_writes(writer: sqlite3.Connection, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as late:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            late.execute("pragma journal_mode=wal")  # what it does by itself
        threading.Timer(0.05, writer.execute, ["commit"]).start()
        use_wal(late.execute, within_s=30)
        assert late.execute("pragma journal_mode").fetchone() == ("wal",)


def test_not_for_ever(writer: sqlite3.Connection, tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as late,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        use_wal(late.execute, within_s=0.03)
