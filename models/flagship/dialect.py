"""What a dialect is: how one kind of API wants to be asked, and what its answers mean.

Dialects are pure. `models.flagship.answerer` carries what they write and hands them what comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from models.messages import Completion, Done, Event, Request

#: OpenAI's seal of a thought is this, its item's id and its encrypted text, joined by colons.
#: So no other provider's seal is sent to OpenAI, and OpenAI's to no other.
OPENAI_SEAL = "openai"


class Deltas(Protocol):
    """One streamed answer while it is being read."""

    @property
    def ended(self) -> bool:
        """Whether the last event of the stream has been fed."""
        ...

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        """The events in one chunk. Raises what an error chunk says."""
        ...

    def done(self) -> Done:
        """The last event. Raises UpstreamError if the stream broke off without an end."""
        ...


class Dialect(Protocol):
    """One model's API. Unknown fields of an answer are ignored and missing ones never crash."""

    #: Behind the model's base_url.
    path: str
    #: The headers that the key goes into, and what stands before it there.
    key_headers: Mapping[str, str]
    #: Headers of every request, beside the key.
    headers: Mapping[str, str]

    def payload(self, request: Request, *, model: str, stream: bool) -> dict[str, Any]:
        """The JSON body that asks `model`. Raises Unsupported for what it cannot say."""
        ...

    def completion(self, body: Mapping[str, Any], *, model: str) -> Completion:
        """The answer in this JSON body, said to be `model`'s. Raises UpstreamError without one."""
        ...

    def deltas(self, model: str) -> Deltas: ...
