"""Writes rows of results to a folder: JSON lines, or Parquet by pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from serve.jobs.export import SCHEMA

Format = Literal["jsonl", "parquet"]
#: Names the batch that a folder belongs to.
MARK = "batch.json"
_GROUP = 5000

Rows = Iterable[dict[str, Any]]


def claim(folder: Path, batch: str) -> None:
    """Make the folder this batch's. Raises ValueError where it is another's, or OSError."""
    owner = owner_of(folder)
    if owner not in (None, batch):
        raise ValueError(f"{folder} holds the results of {owner}: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(json.dumps({"id": batch}) + "\n", encoding="utf-8")


def owner_of(folder: Path) -> str | None:
    """The batch whose results lie in a folder."""
    try:
        return str(json.loads((folder / MARK).read_text(encoding="utf-8"))["id"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return "something unknown"


def write(folder: Path, rows: Rows, form: Format) -> Path:
    """`results.jsonl` or `results.parquet`, whole or not at all. Raises OSError, or ValueError
    where pyarrow is not there."""
    path = folder / f"results.{form}"
    draft = path.with_suffix(".part")
    try:
        (_write_parquet if form == "parquet" else _write_lines)(draft, rows)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _write_lines(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, rows: Rows) -> None:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError("Parquet needs pyarrow: install it, or take --format jsonl") from None
    types = {
        "string": arrow.string(),
        "int64": arrow.int64(),
        "float64": arrow.float64(),
        "bool": arrow.bool_(),
    }
    schema = arrow.schema([(name, types[kind]) for name, kind in SCHEMA.items()])
    with parquet.ParquetWriter(path, schema) as writer:
        for group in _groups(iter(rows)):
            writer.write_table(arrow.Table.from_pylist(group, schema))


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(rows, _GROUP)):
        yield group
