"""A message piece by piece. Pure.

Blocks follow one another: what comes next closes what was open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from models.errors import FusionError, UpstreamError
from models.messages import (
    Completion,
    Done,
    Event,
    Progress,
    Reasoning,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from serve.dialects.dialect import Asked, server_sent
from serve.dialects.extension import told
from serve.dialects.messages import answer as whole

#: What a block is: a text, a thought, or the call of this index.
_Kind = Literal["text", "thinking"] | int


@dataclass(slots=True)
class MessageEvents:
    """Turns the events of one answer into the stream events of a message."""

    asked: Asked
    model: str
    identity: str
    _open: _Kind | None = None
    #: The block that is open, or the next one.
    _index: int = 0

    heartbeat: ClassVar[bytes] = server_sent({"type": "ping"}, "ping")

    def start(self) -> bytes:
        return self._event("message_start", message=whole.envelope(self.model, self.identity))

    def of(self, event: Event) -> bytes:
        return b"".join(self._pieces(event))

    def failed(self, error: FusionError) -> bytes:
        return server_sent(whole.error(error), "error")

    def _pieces(self, event: Event) -> Iterator[bytes]:
        match event:
            case TextDelta(text):
                yield from self._begin("text", {"type": "text", "text": ""})
                yield self._delta("text_delta", text=text)
            case ReasoningDelta():
                yield from self._think(event)
            case ToolCallDelta():
                yield from self._call(event)
            case Progress(kind, data):
                if self.asked.extension.events:
                    yield self._event("ping", fusion={"event": kind, **data})
            case Done(answer):
                yield from self._end(answer)

    def _think(self, piece: ReasoningDelta) -> Iterator[bytes]:
        if piece.redacted is not None:
            yield from self._close()
            yield from self._begin(
                "thinking", whole.thinking_block(Reasoning(redacted=piece.redacted))
            )
            yield from self._close()
            return
        if piece.text or piece.signature is not None:
            yield from self._begin("thinking", whole.thinking_block(Reasoning()))
        if piece.text:
            yield self._delta("thinking_delta", thinking=piece.text)
        if piece.signature is not None:
            yield self._delta("signature_delta", signature=piece.signature)
            yield from self._close()

    def _call(self, piece: ToolCallDelta) -> Iterator[bytes]:
        if self._open != piece.index:
            if piece.id is None:
                raise UpstreamError(
                    "The model wrote two calls at once, and one block follows another."
                )
            block = {"type": "tool_use", "id": piece.id, "name": piece.name or "", "input": {}}
            yield from self._begin(piece.index, block)
        if piece.arguments:
            yield self._delta("input_json_delta", partial_json=piece.arguments)

    def _end(self, answer: Completion) -> Iterator[bytes]:
        yield from self._close()
        yield self._event(
            "message_delta",
            delta=whole.stopped(answer),
            usage=whole.usage(answer.usage),
            fusion=told(answer, self.asked.extension),
        )
        yield self._event("message_stop")

    def _begin(self, kind: _Kind, block: dict[str, Any]) -> Iterator[bytes]:
        if self._open == kind:
            return
        yield from self._close()
        self._open = kind
        yield self._event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> Iterator[bytes]:
        if self._open is None:
            return
        self._open = None
        yield self._event("content_block_stop", index=self._index)
        self._index += 1

    def _delta(self, kind: str, **fields: Any) -> bytes:
        delta = {"type": kind, **fields}
        return self._event("content_block_delta", index=self._index, delta=delta)

    def _event(self, kind: str, **fields: Any) -> bytes:
        return server_sent({"type": kind, **fields}, kind)
