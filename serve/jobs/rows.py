"""One line of a batch's input: read strictly, and named by its content. Pure.

Two forms, which may be mixed in a file:

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
    {"id": "a", "prompt": "Why is the sky blue?"}

The short form may also have `system`, `messages` in the place of `prompt`, and any field of a chat
completion's body; `sample` tells apart rows that ask the same and want answers of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from models.errors import BadRequest, FusionError, Unsupported
from models.loose import clean
from models.messages import Request
from serve.dialects.dialect import Asked, Dialect
from serve.dialects.paths import DIALECTS, spoken_at
from serve.gateway.knob import turned

#: Code, message and HTTP status of what stopped a row.
Failure = tuple[str, str, int]
ENDPOINT = "/v1/chat/completions"
#: The longest line that is read. A longer one is a bad row, whatever stands in it.
MAX_LINE = 16_000_000
_MAX_ID = 512
_requests = TypeAdapter(Request)


@dataclass(frozen=True, slots=True)
class Row:
    """What one line asks for. `sample` is part of what makes its answer its own."""

    id: str
    asked: Asked
    dialect: Dialect
    sample: int = 0

    @property
    def request(self) -> Request:
        return self.asked.request


def read_row(line: bytes, model: str | None = None) -> Row:
    """A line as a row. `model` answers where the line names none.

    Raises BadRequest (or another error that the chat dialect has) with the reason in words.
    """
    if len(line) > MAX_LINE:
        raise BadRequest(f"The line has {len(line)} bytes; {MAX_LINE} is the most.")
    raw = _object(line)
    openai = "body" in raw or "custom_id" in raw
    row_id, body, sample = _openai(raw) if openai else _short(raw)
    if model is not None:
        body.setdefault("model", model)
    if body.get("stream"):
        raise Unsupported("A batch does not stream: leave 'stream' out.", param="stream")
    dialect = spoken_at(raw["url"] if openai and "url" in raw else ENDPOINT)
    # Who should answer is part of what is asked, and so of its key.
    asked = turned(dialect.parse(json.dumps(body).encode()), {})
    if asked.previous is not None:
        raise Unsupported("A row stands for itself: send the whole conversation.", param="body")
    if asked.extension.call:
        raise Unsupported(
            "A row belongs to no session, and waits for a person without being told to: leave "
            "'session_id' and 'approval_wait_s' out.",
            param="fusion",
        )
    return Row(row_id, asked, dialect, sample)


def read_id(line: bytes) -> str:
    """The id of a line alone. Raises BadRequest where it has none."""
    raw = _object(line)
    return _id(raw, "custom_id" if "custom_id" in raw or "body" in raw else "id")


def _object(line: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(line)
    except UnicodeDecodeError:
        raise BadRequest("The line is not UTF-8.") from None
    except ValueError as error:
        raise BadRequest(f"The line is not JSON ({error}).") from None
    except RecursionError:
        raise BadRequest("The line is nested too deeply.") from None
    if not isinstance(raw, dict):
        raise BadRequest("The line is not a JSON object.")
    return raw


def _id(raw: dict[str, Any], field: str) -> str:
    found = raw.get(field)
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    if not isinstance(found, str) or not found or len(found) > _MAX_ID:
        raise BadRequest(f"'{field}' is not a text of 1 to {_MAX_ID} characters.", param=field)
    if "\0" in found or clean(found) != found:
        raise BadRequest(f"'{field}' has a character that no store can keep.", param=field)
    return found


def _openai(raw: dict[str, Any]) -> tuple[str, dict[str, Any], int]:
    row_id = _id(raw, "custom_id")
    if raw.get("method", "POST") != "POST":
        raise BadRequest("'method' is not POST.", param="method")
    url = raw.get("url", ENDPOINT)
    if not isinstance(url, str) or url not in DIALECTS:
        raise Unsupported(f"'url' is none of {', '.join(DIALECTS)}.", param="url")
    body = raw.get("body")
    if not isinstance(body, dict):
        raise BadRequest("'body' is not an object.", param="body")
    return row_id, body, 0


def _short(raw: dict[str, Any]) -> tuple[str, dict[str, Any], int]:
    row_id = _id(raw, "id")
    body = {key: value for key, value in raw.items() if key not in _OWN}
    if "prompt" in raw:
        if "messages" in raw or not isinstance(raw["prompt"], str):
            raise BadRequest("'prompt' is a text, and stands without 'messages'.", param="prompt")
        body["messages"] = [{"role": "user", "content": raw["prompt"]}]
    if not isinstance(body.get("messages"), list):
        raise BadRequest("The line has neither 'prompt' nor 'messages'.", param="prompt")
    if (instruction := raw.get("system")) is not None:
        body["messages"] = [{"role": "system", "content": instruction}, *body["messages"]]
    sample = raw.get("sample", 0)
    if not isinstance(sample, int) or isinstance(sample, bool):
        raise BadRequest("'sample' is not a whole number.", param="sample")
    return row_id, body, sample


_OWN = frozenset(("id", "prompt", "system", "sample"))


def content_key(request: Request, answers: str, sample: int = 0) -> str:
    """A name for what is asked: equal requests have equal keys, whatever their rows' ids.

    `answers` says what stands behind the model's name now. An alias that points elsewhere, or a
    panel with other members, is another question.
    """
    asked = _requests.dump_json(replace(request, model=answers))
    return hashlib.sha256(b"%d %s" % (sample, asked)).hexdigest()


@dataclass(frozen=True, slots=True)
class Line:
    """Where a line lies in its file, and the line."""

    number: int
    start: int
    data: bytes


@dataclass(slots=True)
class Lines:
    """Cuts a file that comes in pieces into lines; holds no more than one line and one piece.

    Of a line that is too long only so much is kept that `read_row` says so.
    """

    _number: int = 0
    _start: int = 0
    _rest: bytes = b""
    _cut: int = 0

    def feed(self, piece: bytes) -> Iterator[Line]:
        """The lines that end in this piece, without their ends. Blank ones are left out."""
        *whole, last = piece.split(b"\n")
        for end in whole:
            yield from self._line(self._rest + end, ended=1)
            self._rest = b""
        self._rest += last
        if len(self._rest) > MAX_LINE + 1:
            self._cut += len(self._rest) - MAX_LINE - 1
            self._rest = self._rest[: MAX_LINE + 1]

    def end(self) -> Iterator[Line]:
        """The last line, where the file does not end with a line's end."""
        yield from self._line(self._rest, ended=0)
        self._rest = b""

    def _line(self, data: bytes, ended: int) -> Iterator[Line]:
        self._number += 1
        if data.strip():
            yield Line(self._number, self._start, data)
        self._start += len(data) + self._cut + ended
        self._cut = 0


def failure(error: FusionError) -> Failure:
    """An error as a row keeps it."""
    return error.code, error.message, error.status
