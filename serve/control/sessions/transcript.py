"""A session as JSON lines, out and in. No vendor's format.

The first line is `{"format": "fusion-session", "version": 1, "name": "…"}`. Each further line is an
item: `{"message": {"role": "user", "content": [{"text": "…"}]}, "model": "…"}`, where `message` is
our own record (`models/messages.py`) without what is as it is by default, and `model` is who wrote
it.
Ids, places and times are told on the way out and given anew on the way in.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, TypeVar

from models import loose
from models.errors import BadRequest
from models.messages import Message
from serve.control import neutral
from serve.control.sessions.store import MOST_ITEMS, PAGE, New, Sessions

T = TypeVar("T", bytes, bytearray)
FORMAT = {"format": "fusion-session", "version": 1}
#: Bytes of a whole file, and of one line of it.
MOST_BYTES = 32_000_000
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


async def read(pieces: AsyncIterable[bytes]) -> tuple[str, list[New]]:
    """The name and the items of a file that comes in pieces. Raises BadRequest that names the
    line, as soon as that has come: of a file that is no session no more is read."""
    name: str | None = None
    items: list[New] = []
    async for at, line in _lines(pieces):
        if at > MOST_ITEMS + 1:
            raise BadRequest(f"The file has more than {MOST_ITEMS:,} items.")
        if name is None:
            name = _name(line)
        elif line.strip():
            items.append(_item(line, at))
    if name is None:
        raise BadRequest("The file is empty.")
    return name, items


async def _lines(pieces: AsyncIterable[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """Each line with its number, from 1. Holds no more than one line and one piece."""
    at, begun = 1, bytearray()
    async for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for end in ended:
            yield at, _short(bytes(begun) + end, at)
            at += 1
            begun.clear()
        begun += rest
        _short(begun, at)
    if begun:
        yield at, bytes(begun)


def _short(line: T, at: int) -> T:
    if len(line) > MOST_LINE:
        raise BadRequest(f"Line {at} is longer than {MOST_LINE:,} bytes.")
    return line


def _name(raw: bytes) -> str:
    head = _parsed(raw, 1)
    if {key: head.get(key) for key in FORMAT} != FORMAT:
        raise BadRequest(f"Line 1 is not {json.dumps(FORMAT)}.")
    name = head.get("name", "")
    if not isinstance(name, str) or len(name) > 200:
        raise BadRequest("Line 1: 'name' is text of at most 200 characters.")
    return name


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
    try:
        data = loose.decoded(raw)
    except (ValueError, RecursionError):
        raise BadRequest(f"Line {at} is not JSON.") from None
    if not isinstance(data, dict):
        raise BadRequest(f"Line {at} is not a JSON object.")
    return data


def _line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode(errors="replace") + b"\n"
