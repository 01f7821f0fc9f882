"""A provider that a test owns: a small real server on this machine, faults included.

It speaks just enough HTTP to misbehave on purpose, which no decent server library lets it do.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

#: What happens to the connection after the answer's last byte.
Then = Literal["keep", "close", "reset", "hang"]


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes as they go out: piece by piece, `pause_s` apart."""

    pieces: tuple[bytes, ...] = ()
    pause_s: float = 0.0
    then: Then = "keep"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came in. Header names are lower case."""

    path: str
    headers: Mapping[str, str]
    body: Any


def whole(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None, **options: Any
) -> Answer:
    """An answer with a length. `body` is bytes, or a value to send as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"content-type": "application/json", "content-length": str(len(data))}
    return Answer((_head(status, lines | dict(headers or {})) + data,), **options)


def said(text: str) -> Answer:
    """A chat completion that says this."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": len(text.split())}
    return whole({"choices": [choice], "usage": usage}, headers={"x-request-id": "up-1"})


def events(
    *data: Any, headers: Mapping[str, str] | None = None, ends: bool = True, **options: Any
) -> Answer:
    """A stream of server-sent events, a piece for each. Bytes go out as they are, text as an
    event's data, other values as JSON. Without `ends` the body lacks its terminator."""
    lines = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
    pieces = [_head(200, lines | dict(headers or {}))]
    for item in data:
        raw = item
        if not isinstance(item, bytes):
            text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
            raw = f"data: {text}\n\n".encode()
        pieces.append(b"%x\r\n%s\r\n" % (len(raw), raw))
    if ends:
        pieces.append(b"0\r\n\r\n")
    return Answer(tuple(pieces), **options)


def delta(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One chunk of a streamed chat completion."""
    content = {} if text is None else {"content": text}
    return {"choices": [{"index": 0, "delta": content, "finish_reason": finish}], **more}


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode()


@dataclass
class FakeProvider:
    """Gives each request the next of `answers`; the last one stays.

    >>> async with FakeProvider([said("hello")]) as provider:
    ...     model = OpenAIModel(engine="openai", base_url=provider.base_url)
    """

    answers: list[Answer]
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    #: Connections that the client closed while an answer was hanging.
    hung_up: int = 0
    base_url: str = ""
    _handlers: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.base_url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        handler = asyncio.create_task(self._serve(reader, writer))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._read(reader):
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                for index, piece in enumerate(answer.pieces):
                    if index and answer.pause_s:
                        await asyncio.sleep(answer.pause_s)
                    writer.write(piece)
                    await writer.drain()
                    # Each piece in a packet of its own, as far as that can be had.
                    await asyncio.sleep(0)
                if answer.then == "hang":
                    await reader.read()
                    self.hung_up += 1
                elif answer.then == "reset":
                    _reset(writer)
                if answer.then != "keep":
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up += 1
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bool:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        self.asked.append(Asked(first.split(" ")[1], headers, json.loads(raw)))
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN, as a crashed or overloaded peer does."""
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
