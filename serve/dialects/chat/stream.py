"""A chat completion piece by piece. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from models.errors import FusionError
from models.messages import Done, Event, Progress, ReasoningDelta, TextDelta, ToolCallDelta
from serve.dialects import errors
from serve.dialects.chat.answer import citations, usage
from serve.dialects.dialect import Asked, server_sent
from serve.dialects.extension import told


@dataclass(slots=True)
class Chunks:
    """Turns the events of one answer into `chat.completion.chunk`s."""

    asked: Asked
    #: Whose name stands on chunks that come before the writer is known.
    model: str
    identity: str
    created: int = field(default_factory=lambda: int(time.time()))
    #: Calls of which no argument has been written yet.
    _bare_calls: set[int] = field(default_factory=set)

    #: A comment, which clients skip.
    heartbeat: ClassVar[bytes] = b": still working\n\n"

    def start(self) -> bytes:
        """The first chunk says who speaks."""
        return server_sent(self._chunk({"role": "assistant", "content": "", "refusal": None}))

    def of(self, event: Event) -> bytes:
        pieces = b"".join(map(server_sent, self.chunks(event)))
        return pieces + b"data: [DONE]\n\n" if isinstance(event, Done) else pieces

    def failed(self, error: FusionError) -> bytes:
        return server_sent(errors.body(error))

    def chunks(self, event: Event) -> Iterator[dict[str, Any]]:
        match event:
            case TextDelta(text):
                yield self._chunk({"content": text})
            case ReasoningDelta(text):
                if text:  # a seal is nothing that this dialect can say
                    yield self._chunk({"reasoning_content": text})
            case ToolCallDelta(index, arguments):
                if arguments:
                    self._bare_calls.discard(index)
                elif event.id is not None:
                    self._bare_calls.add(index)
                yield self._chunk({"tool_calls": [_tool_delta(event)]})
            case Progress(kind, data):
                if self.asked.extension.events:
                    yield self._bare({"fusion": {"event": kind, **data}})
            case Done(answer):
                self.model = answer.model
                # Clients read a call's arguments as JSON, and nothing is none.
                for index in sorted(self._bare_calls):
                    yield self._chunk({"tool_calls": [_tool_delta(ToolCallDelta(index, "{}"))]})
                notes = citations(answer.text, answer.sources)
                delta = {"annotations": notes} if notes else {}
                last = self._chunk(delta, answer.finish_reason)
                yield last | {"fusion": told(answer, self.asked.extension)}
                if self.asked.echo.get("usage"):
                    yield self._bare({"usage": usage(answer.usage)})

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._bare({"choices": [choice]})

    def _bare(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.identity}",
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [],
            **fields,
        }


def _tool_delta(event: ToolCallDelta) -> dict[str, Any]:
    out: dict[str, Any] = {"index": event.index, "function": {"arguments": event.arguments}}
    if event.id is not None:
        out |= {"id": event.id, "type": "function"}
        out["function"]["name"] = event.name
    return out
