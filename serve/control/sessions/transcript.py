"""A session as JSON lines, out and in. No vendor's format.

The first line is `{"format": "fusion-session", "version": 1, "name": "…"}`. Each further line is an
item: `{"message": {"role": "user", "content": [{"text": "…"}]}, "model": "…"}`, where `message` is
our own record (`models/messages.py`) without what is as it is by default, and `model` is who wrote
it.
Ids, places and times are told on the way out and given anew on the way in.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from models.errors import BadRequest
from models.messages import Message
from serve.control import neutral
from serve.control.sessions.store import MOST_ITEMS, PAGE, New, Sessions

FORMAT = {"format": "fusion-session", "version": 1}
#: Bytes of a whole file, and of one line of it.
MOST_BYTES = 64_000_000
MOST_LINE = 8_000_000


async def written(sessions: Sessions, identity: str, project: str) -> AsyncIterator[bytes]:
    head = await sessions.read(identity, project)
    yield _line({**FORMAT, **{key: head[key] for key in ("id", "name", "created_at", "length")}})
    after = -1
    while page := await sessions.page(identity, project, after):
        for item in page:
            yield _line({key: item[key] for key in ("id", "at", "model", "message")})
        after = page[-1]["position"]
        if len(page) < PAGE:
            return


def read(raw: bytes) -> tuple[str, list[New]]:
    """The name and the items. Raises BadRequest that names the line."""
    lines = raw.splitlines()
    if not lines:
        raise BadRequest("The file is empty.")
    head = _parsed(lines[0], 1)
    if {key: head.get(key) for key in FORMAT} != FORMAT:
        raise BadRequest(f"Line 1 is not {json.dumps(FORMAT)}.")
    name = head.get("name", "")
    if not isinstance(name, str) or len(name) > 200:
        raise BadRequest("Line 1: 'name' is text of at most 200 characters.")
    if len(lines) - 1 > MOST_ITEMS:
        raise BadRequest(f"The file has more than {MOST_ITEMS:,} items.")
    return name, [_item(line, at) for at, line in enumerate(lines[1:], 2) if line.strip()]


def _item(raw: bytes, at: int) -> New:
    data = _parsed(raw, at)
    model = data.get("model")
    if model is not None and (not isinstance(model, str) or len(model) > 128):
        raise BadRequest(f"Line {at}: 'model' is a model's name.")
    try:
        return New(message(data.get("message")), model)
    except ValueError as error:
        raise BadRequest(f"Line {at}: {error}") from None


def message(data: Any) -> Message:
    """A message in our form; its content may be plain text. Raises ValueError."""
    if not isinstance(data, Mapping):
        raise ValueError("'message' is an object")  # noqa: TRY004  # what a stranger sent
    if isinstance(data.get("content"), str):
        data = {**data, "content": [{"text": data["content"]}]}
    return neutral.message(data)


def _parsed(raw: bytes, at: int) -> dict[str, Any]:
    if len(raw) > MOST_LINE:
        raise BadRequest(f"Line {at} is longer than {MOST_LINE:,} bytes.")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadRequest(f"Line {at} is not JSON.") from None
    if not isinstance(data, dict):
        raise BadRequest(f"Line {at} is not a JSON object.")
    return data


def _line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode(errors="replace") + b"\n"
