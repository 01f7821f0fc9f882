"""A response piece by piece. Pure.

Each item of the output is opened, written and closed; the thought or text that is being written
is closed by whatever comes after it, calls and a fusion by their own end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from models.errors import FusionError
from models.messages import (
    Completion,
    Done,
    Event,
    Progress,
    Reasoning,
    ReasoningDelta,
    Source,
    TextDelta,
    ToolCall,
    ToolCallDelta,
)
from serve.dialects.dialect import Asked, server_sent
from serve.dialects.responses import answer as whole
from serve.dialects.responses.answer import Item

#: The Fusion contract's events, without their prefix.
FUSION_EVENTS = frozenset(
    (
        "in_progress",
        "panel.added",
        "panel.delta",
        "panel.reasoning.delta",
        "panel.completed",
        "panel.failed",
        "analysis.in_progress",
        "analysis.completed",
        "completed",
    )
)


@dataclass(slots=True)
class _Open:
    """An item that is being written."""

    index: int
    id: str
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(slots=True)
class _OpenCall(_Open):
    call: str = ""
    name: str = ""


@dataclass(slots=True)
class ResponseEvents:
    """Turns the events of one answer into the stream events of a response."""

    asked: Asked
    model: str
    identity: str
    response: dict[str, Any] = field(init=False)
    _sequence: int = 0
    #: By place in the output; None while it is being written.
    _items: list[Item | None] = field(default_factory=list)
    _thought: _Open | None = None
    _text: _Open | None = None
    _calls: dict[int, _OpenCall] = field(default_factory=dict)
    _fusion: _Open | None = None

    #: A comment, which clients skip.
    heartbeat: ClassVar[bytes] = b": still working\n\n"

    def __post_init__(self) -> None:
        self.response = whole.envelope(self.asked, self.model, self.identity)

    def start(self) -> bytes:
        return b"".join(
            self._event(f"response.{state}", response=self.response)
            for state in ("created", "in_progress")
        )

    def of(self, event: Event) -> bytes:
        return b"".join(self._pieces(event))

    def failed(self, error: FusionError) -> bytes:
        response = whole.broken(self.response, error, self._finished)
        return self._event("response.failed", response=response)

    def _pieces(self, event: Event) -> Iterator[bytes]:
        match event:
            case TextDelta(text):
                yield from self._end_thought()
                yield from self._say(text)
            case ReasoningDelta():
                yield from self._end_text()
                yield from self._think(event)
            case ToolCallDelta():
                yield from self._end_thought()
                yield from self._end_text()
                yield from self._call(event)
            case Progress(kind, data) if kind in FUSION_EVENTS:
                yield from self._fuse(kind, data)
            case Done(answer):
                yield from self._end(answer)

    # The answer's text

    def _open_text(self) -> Iterator[bytes]:
        if self._text is None:
            self._text = item = self._opened("msg")
            yield self._added(item, whole.message_item(item.id, "") | {"content": []})
            yield self._about(
                "response.content_part.added", item, content_index=0, part=whole.text_part("")
            )

    def _say(self, text: str) -> Iterator[bytes]:
        yield from self._open_text()
        item = self._text
        assert item is not None
        item.pieces.append(text)
        yield self._about(
            "response.output_text.delta", item, content_index=0, delta=text, logprobs=[]
        )

    def _end_text(self, found: tuple[Source, ...] = ()) -> Iterator[bytes]:
        if (item := self._text) is None:
            return
        self._text = None
        part = whole.text_part(item.text, found)
        for index, note in enumerate(part["annotations"]):
            yield self._about(
                "response.output_text.annotation.added",
                item,
                content_index=0,
                annotation_index=index,
                annotation=note,
            )
        yield self._about(
            "response.output_text.done", item, content_index=0, text=item.text, logprobs=[]
        )
        yield self._about("response.content_part.done", item, content_index=0, part=part)
        yield self._done(item, whole.message_item(item.id, item.text, found))

    # What the model thinks

    def _think(self, piece: ReasoningDelta) -> Iterator[bytes]:
        if piece.redacted is not None:
            yield from self._end_thought()
            yield from self._unsaid(Reasoning(redacted=piece.redacted))
        if piece.text:
            if (item := self._thought) is None:
                self._thought = item = self._opened("rs")
                yield self._added(item, whole.reasoning_item(item.id, Reasoning()))
                yield self._about(
                    "response.content_part.added",
                    item,
                    content_index=0,
                    part=whole.thought_part(""),
                )
            item.pieces.append(piece.text)
            yield self._about(
                "response.reasoning_text.delta", item, content_index=0, delta=piece.text
            )
        if piece.signature is not None:
            if self._thought is None:
                yield from self._unsaid(Reasoning(signature=piece.signature))
            yield from self._end_thought(piece.signature)

    def _end_thought(self, signature: str | None = None) -> Iterator[bytes]:
        if (item := self._thought) is None:
            return
        self._thought = None
        text = item.text
        yield self._about("response.reasoning_text.done", item, content_index=0, text=text)
        part = whole.thought_part(text)
        yield self._about("response.content_part.done", item, content_index=0, part=part)
        yield self._done(item, whole.reasoning_item(item.id, Reasoning(text, signature)))

    def _unsaid(self, thought: Reasoning) -> Iterator[bytes]:
        """A thought of which nothing but its seal is told."""
        item = self._opened("rs")
        yield self._added(item, whole.reasoning_item(item.id, Reasoning()))
        yield self._done(item, whole.reasoning_item(item.id, thought))

    # Calls of the caller's functions

    def _call(self, piece: ToolCallDelta) -> Iterator[bytes]:
        if (item := self._calls.get(piece.index)) is None:
            opened = self._opened("fc")
            item = _OpenCall(opened.index, opened.id, call=piece.id or "", name=piece.name or "")
            self._calls[piece.index] = item
            yield self._added(item, whole.call_item(item.id, ToolCall(item.call, item.name, "")))
        if piece.arguments:
            item.pieces.append(piece.arguments)
            yield self._about("response.function_call_arguments.delta", item, delta=piece.arguments)

    def _end_calls(self) -> Iterator[bytes]:
        for item in self._calls.values():
            arguments = item.text or "{}"
            yield self._about(
                "response.function_call_arguments.done",
                item,
                name=item.name,
                arguments=arguments,
            )
            call = ToolCall(item.call, item.name, arguments)
            yield self._done(item, whole.call_item(item.id, call))

    # The fusion, by its contract

    def _fuse(self, kind: str, data: Mapping[str, Any]) -> Iterator[bytes]:
        if (item := self._fusion) is None:
            yield from self._end_thought()
            yield from self._end_text()
            self._fusion = item = self._opened("fus", data.get("id"))
            yield self._added(item, whole.fusion_item(item.id, {}))
            if kind != "in_progress":
                yield self._about("response.fusion_call.in_progress", item)
        if kind == "completed":
            yield from self._end_fusion(data.get("result") or {})
            return
        # The official client takes any event with an `error` for the end of its stream.
        told = {"message" if key == "error" else key: value for key, value in data.items()}
        yield self._about(f"response.fusion_call.{kind}", item, **told)

    def _end_fusion(self, result: Mapping[str, Any]) -> Iterator[bytes]:
        if (item := self._fusion) is None or self._items[item.index] is not None:
            return
        yield self._about("response.fusion_call.completed", item)
        yield self._done(item, whole.fusion_item(item.id, result))

    # The end

    def _end(self, answer: Completion) -> Iterator[bytes]:
        yield from self._end_fusion(whole.fusion_result(answer))
        yield from self._end_thought()
        if not self._calls and not any(item["type"] == "message" for item in self._finished):
            yield from self._open_text()  # an answer without a word is one all the same
        yield from self._end_text(answer.sources)
        yield from self._end_calls()
        response = whole.ended(self.response, answer, self.asked, self._finished)
        yield self._event(f"response.{response['status']}", response=response)

    @property
    def _finished(self) -> list[Item]:
        return [item for item in self._items if item is not None]

    # Events

    def _opened(self, prefix: str, identity: str | None = None) -> _Open:
        index = len(self._items)
        self._items.append(None)
        return _Open(index, identity or f"{prefix}_{self.identity}_{index}")

    def _added(self, item: _Open, value: Item) -> bytes:
        return self._event(
            "response.output_item.added",
            output_index=item.index,
            item=value | {"status": "in_progress"},
        )

    def _done(self, item: _Open, value: Item) -> bytes:
        self._items[item.index] = value
        return self._event("response.output_item.done", output_index=item.index, item=value)

    def _about(self, kind: str, item: _Open, **fields: Any) -> bytes:
        return self._event(kind, item_id=item.id, output_index=item.index, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        number = self._sequence
        self._sequence += 1
        return server_sent({"type": kind, "sequence_number": number, **fields}, kind)
