"""Switches a SQLite file to its write-ahead log, beside others who may be doing the same."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

_PAUSE_S = 0.01


def use_wal(execute: Callable[[str], object], within_s: float) -> None:
    """`execute` runs one statement on a connection. Raises sqlite3.OperationalError where others
    have the file for longer than `within_s`.

    While somebody writes to a file that is not in this mode yet, the switch fails at once: the
    connection's own timeout holds for all other statements and not for this one. Once the file
    is in the mode, which stays with it, this only reads.
    """
    ends = time.monotonic() + within_s
    while True:
        try:
            execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() >= ends:
                raise
        time.sleep(_PAUSE_S)
