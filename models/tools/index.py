"""A full-text index of one folder: SQLite's FTS5 in one file, kept up to date by file times.

Texts are cut into passages of about a screen each, so that a search gives the place and not only
the file. Several processes may share the file: one at a time brings it up to date.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from models.loose import clean
from models.wal import use_wal

#: Characters of one passage, about 300 words.
PASSAGE_CHARS = 1800
BUSY_S = 30.0
_SCHEMA = """
create table if not exists files (
    id integer primary key, path text unique not null, title text not null,
    modified integer not null, size integer not null
);
create virtual table if not exists passages using fts5 (
    title, text, file unindexed, place unindexed, tokenize = 'porter unicode61 remove_diacritics 2'
);
"""
#: A word in a title counts as much as four in the text.
_SEARCH = """
select files.path, files.title, passages.text from passages
join files on files.id = passages.file
where passages match ? order by bm25(passages, 4.0, 1.0), files.path, passages.place limit ?
"""


@dataclass(frozen=True, slots=True)
class Passage:
    """`path` is relative to the folder, with slashes."""

    path: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Index:
    """The texts under `folder` whose names end as one of `suffixes`, indexed in `file`."""

    file: Path
    folder: Path
    suffixes: tuple[str, ...]
    max_file_bytes: int

    def refresh(self) -> int:
        """Read what is new or changed, forget what is gone. How many files that were."""
        with closing(self._open()) as connection, connection:
            connection.execute("begin immediate")
            known = {
                path: (identity, modified, size)
                for identity, path, modified, size in connection.execute(
                    "select id, path, modified, size from files"
                )
            }
            changed = 0
            for path, status in self._files():
                name = path.relative_to(self.folder).as_posix()
                identity, *seen = known.pop(name, (None, None, None))
                if seen == [status.st_mtime_ns, status.st_size]:
                    continue
                changed += 1
                _forget(connection, identity)
                _add(connection, name, path, status)
            for identity, _, _ in known.values():
                changed += 1
                _forget(connection, identity)
            return changed

    def search(self, query: str, limit: int) -> list[Passage]:
        """The passages that fit best, the best first. Any word of the query may fit."""
        words = dict.fromkeys(re.findall(r"\w+", query.lower()))
        if not words:
            return []
        # Quoted, so that no word of a stranger's query is an operator of FTS5.
        match = " OR ".join(f'"{word}"' for word in words)
        with closing(self._open()) as connection:
            return [Passage(*row) for row in connection.execute(_SEARCH, (match, limit))]

    def text(self, path: str) -> Passage | None:
        """A whole document as it was indexed, or None if there is none of this path."""
        with closing(self._open()) as connection:
            found = connection.execute("select id, title from files where path = ?", (path,))
            if (row := found.fetchone()) is None:
                return None
            pieces = connection.execute(
                "select text from passages where file = ? order by place", (row[0],)
            )
            return Passage(path, row[1], "".join(piece for (piece,) in pieces))

    def _open(self) -> sqlite3.Connection:
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = sqlite3.connect(self.file, timeout=BUSY_S, isolation_level=None)
        use_wal(connection.execute, BUSY_S)
        connection.executescript(_SCHEMA)
        return connection

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Every file to read. Links are followed to files inside the folder only."""
        root = self.folder.resolve()
        for folder, folders, names in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(folder, name)
                if clean(str(path.relative_to(self.folder))) != str(path.relative_to(self.folder)):
                    continue  # a name that is no text: nobody could ask for it
                if name.startswith(".") or not name.lower().endswith(self.suffixes):
                    continue
                try:
                    status = path.stat()
                    inside = path.resolve().is_relative_to(root)
                except OSError:
                    continue  # gone meanwhile, or a link to nothing
                if inside and path.is_file() and status.st_size <= self.max_file_bytes:
                    yield path, status


def _forget(connection: sqlite3.Connection, identity: int | None) -> None:
    if identity is not None:
        connection.execute("delete from passages where file = ?", (identity,))
        connection.execute("delete from files where id = ?", (identity,))


def _add(connection: sqlite3.Connection, name: str, path: Path, status: os.stat_result) -> None:
    try:
        raw = path.read_bytes()
    except OSError:
        return  # not ours to read, or gone
    text = "" if b"\0" in raw else raw.decode("utf-8", errors="replace")
    title = _title(text) or path.name
    made = connection.execute(
        "insert into files (path, title, modified, size) values (?, ?, ?, ?)",
        (name, title, status.st_mtime_ns, status.st_size),
    )
    connection.executemany(
        "insert into passages (title, text, file, place) values (?, ?, ?, ?)",
        ((title, piece, made.lastrowid, place) for place, piece in enumerate(passages(text))),
    )


def _title(text: str) -> str:
    """The first heading, an HTML page's title, or the first line that says something."""
    page = re.search(r"<title[^>]*>([^<]{1,300})</title>", text[:20_000], re.IGNORECASE)
    lines = text[:20_000].splitlines()
    heading = next((line for line in lines if re.match(r"#{1,3} \S", line)), None)
    first = next((line for line in lines if re.search(r"\w", line)), "")
    found = page[1] if page else heading or first
    return found.strip("#=-*<!> \t\n")[:200]


def passages(text: str) -> Iterator[str]:
    """`text` in pieces that together are the text, cut where a paragraph, line or word ends."""
    start = 0
    while start < len(text):
        end = start + PASSAGE_CHARS
        if end < len(text):
            for mark in ("\n\n", "\n", " "):
                cut = text.rfind(mark, start + PASSAGE_CHARS // 2, end)
                if cut != -1:
                    end = cut + len(mark)
                    break
        yield text[start:end]
        start = end
