"""What a dialect is to the door: JSON in, JSON or a stream of bytes out. Pure functions.

A dialect is a package of this folder: `request` reads, `answer` writes whole, `stream` writes
piece by piece. `serve.dialects.paths` says which path speaks which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from models.errors import FusionError
from models.messages import Completion, Event, Message, Request
from serve.dialects.extension import Extension


@dataclass(frozen=True, slots=True)
class Asked:
    """A request at the door: what is asked, and how it wants to be answered."""

    request: Request
    stream: bool = False
    extension: Extension = field(default_factory=Extension)
    #: The caller's own words about the request.
    metadata: tuple[tuple[str, str], ...] = ()
    #: The answer that this request goes on from.
    previous: str | None = None
    #: Whether the answer shall be kept, so that a later request may go on from it.
    store: bool = False
    #: Messages at the head of the request that belong to this answer alone.
    instructions: int = 0
    #: What the dialect's own answer needs of the body.
    echo: Mapping[str, Any] = field(default_factory=dict)

    @property
    def own_and_said(self) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """The instructions of this answer alone, and the conversation."""
        messages = self.request.messages
        return messages[: self.instructions], messages[self.instructions :]


class Encoder(Protocol):
    """One streamed answer as bytes. Asked once for each event, in their order."""

    #: What is answered; the door may learn better until the end.
    asked: Asked

    @property
    def heartbeat(self) -> bytes:
        """What says that the stream lives, and nothing else."""
        ...

    def start(self) -> bytes:
        """What comes before the first event."""
        ...

    def of(self, event: Event) -> bytes:
        """This event, or nothing if the client is not to see it. `Done` ends the stream."""
        ...

    def failed(self, error: FusionError) -> bytes:
        """The end of a stream that has begun and cannot go on."""
        ...


class Dialect(Protocol):
    """`identity` is the call's id, from which a dialect makes its own."""

    def parse(self, raw: bytes) -> Asked:
        """The request in this HTTP body. Raises BadRequest that names the field."""
        ...

    def whole(self, answer: Completion, asked: Asked, identity: str) -> dict[str, Any]: ...

    def encoder(self, asked: Asked, model: str, identity: str) -> Encoder:
        """`model` stands in what comes before the writer is known."""
        ...

    def error(self, error: FusionError) -> dict[str, Any]: ...


def to_json(body: Mapping[str, Any]) -> bytes:
    """As UTF-8, also where a model wrote halves of characters that are none."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def server_sent(body: Mapping[str, Any], event: str | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if event is None else f"event: {event}\n".encode()
    return head + b"data: " + to_json(body) + b"\n\n"
