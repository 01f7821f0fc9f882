"""What a batch gives back: rows in our own schema, and the output and error files of OpenAI's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from models.errors import FusionError
from models.messages import Request
from models.prices import usd
from serve.dialects.dialect import Asked
from serve.dialects.extension import cost
from serve.dialects.paths import spoken_at
from serve.jobs.batch import Batch, Why
from serve.jobs.batches import Batches, Result
from serve.jobs.files import PART, Draft, Files
from serve.jobs.rows import ENDPOINT, Row, read_row

_PAGE = 200
#: What is said of a row that a batch ended without.
_LEFT: dict[Why, tuple[str, str]] = {
    "cancelled": ("batch_cancelled", "The batch was cancelled before this row was answered."),
    "expired": ("batch_expired", "The batch's time ended before this row was answered."),
    "budget_exceeded": ("budget_exceeded", "The money ended before this row was answered."),
}

#: Every field of a row of results, and its type in Parquet. Stable.
SCHEMA = {
    "id": "string",
    "line": "int64",
    #: `done`, `failed`, or `pending` where the batch has not come to it.
    "status": "string",
    "answer": "string",
    "model": "string",
    "finish_reason": "string",
    #: JSON text: a judge's analysis, the sources, the stages with tokens and dollars of each.
    "analysis": "string",
    "sources": "string",
    "stages": "string",
    "input_tokens": "int64",
    "output_tokens": "int64",
    "seconds": "float64",
    #: Decimal text of dollars; null where a model has no price. What it cost when it was asked.
    "cost_usd": "string",
    #: The answer was there before, and cost this batch nothing.
    "reused": "bool",
    "error_code": "string",
    "error": "string",
}


class _Place(Protocol):
    """Where a line lies in the input."""

    @property
    def start(self) -> int: ...
    @property
    def size(self) -> int: ...


async def texts(files: Files, file: str, rows: Sequence[_Place]) -> list[bytes]:
    """These lines of a file, in order. Lines that lie together are read together."""
    if not rows:
        return []
    first, end = rows[0].start, rows[-1].start + rows[-1].size
    if end - first <= 2 * sum(row.size for row in rows) + PART:
        read = await files.read(file, first, end - first)
        return [read[row.start - first : row.start - first + row.size] for row in rows]
    return [await files.read(file, row.start, row.size) for row in rows]


async def results(batches: Batches, batch: Batch) -> AsyncIterator[list[Result]]:
    """All rows of a batch, page by page."""
    last = 0
    while page := await batches.results(batch.id, last, _PAGE):
        yield page
        last = page[-1].line


def record(result: Result) -> dict[str, Any]:
    """A row of results, in `SCHEMA`'s fields and order."""
    out: dict[str, Any] = dict.fromkeys(SCHEMA)
    out |= {
        "id": result.id,
        "line": result.line,
        "status": result.state,
        "reused": result.reused,
    }
    if result.error is not None:
        out["error_code"], out["error"], _ = result.error
    if (found := result.completion) is not None:
        told = found.extension
        out |= {
            "answer": found.text,
            "model": found.model,
            "finish_reason": found.finish_reason,
            "analysis": _json(told["analysis"]) if told.get("analysis") else None,
            "sources": _json([{"url": one.url, "title": one.title} for one in found.sources]),
            "stages": _json(
                [
                    {
                        "role": stage.role,
                        "model": stage.model,
                        "input_tokens": stage.usage.input,
                        "output_tokens": stage.usage.output,
                        "seconds": round(stage.seconds, 4),
                        "cost_usd": None if stage.nano_usd is None else usd(stage.nano_usd),
                        "error": stage.error,
                    }
                    for stage in found.stages
                ]
            ),
            "input_tokens": sum(stage.usage.input for stage in found.stages),
            "output_tokens": sum(stage.usage.output for stage in found.stages),
            "seconds": told.get("seconds", sum(stage.seconds for stage in found.stages)),
            "cost_usd": cost(found.stages),
        }
    return out


async def write_files(
    batches: Batches, files: Files, batch: Batch, why: Why | None
) -> tuple[str | None, str | None]:
    """The output file (rows with answers) and the error file (all others) in OpenAI's form; None
    where it would be empty."""
    # No limit: these are as large as the answers are.
    output, errors = files.draft(most=1 << 50), files.draft(most=1 << 50)
    async for page in results(batches, batch):
        lines = await texts(files, batch.spec.input_file, page)
        for result, line in zip(page, lines, strict=True):
            if result.completion is not None:
                await output.write(_line(answered(batch, result, line)))
            else:
                await errors.write(_line(unanswered(batch, result, why)))
    return (
        await _kept(files, batch, output, "output"),
        await _kept(files, batch, errors, "error"),
    )


async def _kept(files: Files, batch: Batch, draft: Draft, kind: str) -> str | None:
    if not draft.size:
        return None
    name = f"{batch.id}_{kind}.jsonl"
    kept = batch.spec.output_kept_s
    expires_at = None if kept is None else files.now() + kept
    return (await files.keep(draft, batch.project, name, "batch_output", expires_at)).id


def answered(batch: Batch, result: Result, line: bytes) -> dict[str, Any]:
    """A line of the output file."""
    assert result.completion is not None
    row = _row(batch, line)
    identity = _identity(batch, result)
    return {
        "id": f"batch_req_{identity}",
        "custom_id": result.id,
        "response": {
            "status_code": 200,
            "request_id": f"req_{identity}",
            "body": row.dialect.whole(result.completion, row.asked, identity),
        },
        "error": None,
    }


def _row(batch: Batch, line: bytes) -> Row:
    """The line as it was asked. Where it can be read no more, its answer is told all the same."""
    try:
        return read_row(line, batch.spec.model)
    except FusionError:
        return Row("", Asked(Request(batch.spec.model or "", ())), spoken_at(ENDPOINT))


def unanswered(batch: Batch, result: Result, why: Why | None) -> dict[str, Any]:
    """A line of the error file: a row that failed, or that the batch ended without."""
    identity = _identity(batch, result)
    response = None
    if result.error is None:
        code, message = _LEFT[why or "cancelled"]
    else:
        code, message, status = result.error
        body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
        response = {"status_code": status, "request_id": f"req_{identity}", "body": body}
    return {
        "id": f"batch_req_{identity}",
        "custom_id": result.id,
        "response": response,
        "error": {"code": code, "message": message},
    }


def _identity(batch: Batch, result: Result) -> str:
    return hashlib.sha256(f"{batch.id} {result.line}".encode()).hexdigest()[:24]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
