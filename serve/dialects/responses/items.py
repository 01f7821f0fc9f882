"""The items of a conversation in the responses dialect, and the messages that they make. Pure.

What one turn of an assistant is inside (a thought, a text, calls) is here a row of items, so
neighbours are put together. An item that came out of an answer may go back in as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from models.messages import FUSION_FUNCTION, Image, Message, Reasoning, Text, ToolCall
from serve.dialects.shape import Listed, Loose, Shape

#: A thought that its provider hides begins so; what begins otherwise is the seal of a thought.
HIDDEN = "hidden:"


class _Text(Loose):
    type: Literal["input_text", "output_text"]
    text: str


class _Refusal(Loose):
    type: Literal["refusal"]
    refusal: str


def _detail(value: Any) -> Any:
    """The finest that every model knows."""
    return "high" if value == "original" else value


class _Image(Shape):
    type: Literal["input_image"]
    image_url: str = Field(pattern=r"^(https?://|data:image/)")
    detail: Annotated[Literal["auto", "low", "high"], BeforeValidator(_detail)] | None = None
    #: Files are not read here; clients that send an address say so.
    file_id: None = None


def _parts(value: Any) -> Any:
    """A bare text is a row of one text."""
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


_Part = Annotated[_Text | _Refusal | _Image, Field(discriminator="type")]
_Content = Annotated[Listed[_Part], BeforeValidator(_parts)]


class _Message(Loose):
    type: Literal["message"] = "message"
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: _Content


class _Call(Loose):
    type: Literal["function_call"]
    id: str | None = None
    call_id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    arguments: str


class _Output(Loose):
    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1)
    output: _Content


class _Thought(Loose):
    type: Literal["summary_text", "reasoning_text"]
    text: str


class _Reasoning(Loose):
    type: Literal["reasoning"]
    id: str | None = None
    summary: Listed[_Thought] = Field(default_factory=list)
    content: Listed[_Thought] | None = None
    encrypted_content: str | None = None


class _Fusion(Loose):
    """What a fusion found for an answer before. Where that was the answer, it is not sent to a
    model again; where the model called a function of the caller's in the same turn, it is."""

    type: Literal["openrouter:fusion"]
    id: str = "fus"
    analysis: dict[str, Any] | None = None
    responses: list[Any] | None = None
    error: Any = None


def _kind(value: Any) -> Any:
    """A message need not say that it is one."""
    return value.get("type") or "message" if isinstance(value, dict) else None


Item = Annotated[
    Annotated[_Message, Tag("message")]
    | Annotated[_Call, Tag("function_call")]
    | Annotated[_Output, Tag("function_call_output")]
    | Annotated[_Reasoning, Tag("reasoning")]
    | Annotated[_Fusion, Tag("openrouter:fusion")],
    Discriminator(_kind),
]


def conversation(items: Sequence[Item]) -> tuple[Message, ...]:
    """The messages in these items."""
    messages: list[Message] = []
    #: The fusion of the turn under way, how many messages stand before it, and whether the last of
    #: them belongs to its answer too.
    found: _Fusion | None = None
    before = 0
    amid = False
    for place, item in enumerate(items):
        if found is not None and isinstance(item, _Call):
            _called(messages, before, found, amid)
            found = None
        elif found is not None and not _goes_on(item):
            if amid:
                _joined(messages, before)
            found = None
        fresh = found is not None and len(messages) == before
        match item:
            case _Message(role="assistant", content=parts):
                turn = _turn(messages, fresh or _has_spoken(messages))
                messages.append(replace(turn, content=(*turn.content, *_content(parts))))
            case _Message(role=role, content=parts):
                messages.append(Message(role, _content(parts)))
            case _Call(call_id=identity, name=name, arguments=arguments):
                turn = _turn(messages)
                call = ToolCall(identity, name, arguments)
                messages.append(replace(turn, tool_calls=(*turn.tool_calls, call)))
            case _Reasoning():
                turn = _turn(messages, fresh or _has_spoken(messages))
                messages.append(replace(turn, reasoning=(*turn.reasoning, _thought(item))))
            case _Output(call_id=identity, output=parts):
                messages.append(Message("tool", _content(parts), tool_call_id=identity))
            case _Fusion():
                found, before, amid = item, len(messages), _amid(items, place)
    if amid and found is not None:
        _joined(messages, before)
    return tuple(messages)


def _amid(items: Sequence[Item], place: int) -> bool:
    """Whether what stands here was told in the middle of one answer of ours."""
    if not 0 < place < len(items) - 1:
        return False
    return _answer(items[place - 1]) == _answer(items[place + 1]) != ""


def _answer(item: Item) -> str:
    """The answer of ours that a model gave this item in, or nothing: its id stands in the item's,
    before the item's place."""
    match item:
        case _Message(role="assistant", id=str(own)) | _Reasoning(id=str(own)) | _Call(id=str(own)):
            return own.partition("_")[2].rpartition("_")[0]
    return ""


def _goes_on(item: Item) -> bool:
    """Whether a model says this in the turn in which it had a fusion run."""
    return isinstance(item, _Reasoning) or (isinstance(item, _Message) and item.role == "assistant")


def _called(messages: list[Message], before: int, found: _Fusion, amid: bool) -> None:
    """Put the call that a fusion answered, and what it found, in its place."""
    identity = found.id[:64]
    told = {"analysis": found.analysis, "responses": found.responses, "error": found.error}
    known = {key: value for key, value in told.items() if value is not None}
    turn = messages.pop(before - 1) if amid else Message("assistant")
    at = before - 1 if amid else before
    call = ToolCall(identity, FUSION_FUNCTION, "{}")
    messages[at:at] = (
        replace(turn, tool_calls=(*turn.tool_calls, call)),
        Message("tool", (Text(json.dumps(known)),), tool_call_id=identity, name=FUSION_FUNCTION),
    )


def _joined(messages: list[Message], before: int) -> None:
    """Make one answer of what was said before a fusion and after it."""
    first, last = messages[before - 1 : before + 1]
    messages[before - 1 : before + 1] = (
        replace(
            first,
            content=(*first.content, *last.content),
            reasoning=(*first.reasoning, *last.reasoning),
        ),
    )


def _has_spoken(messages: list[Message]) -> bool:
    """Whether the turn under way has said something, so that the next thing is another's."""
    return bool(messages and messages[-1].content and not messages[-1].tool_calls)


def _turn(messages: list[Message], fresh: bool = False) -> Message:
    """The assistant's turn under way, taken off the list, or a new one."""
    if messages and messages[-1].role == "assistant" and not fresh:
        return messages.pop()
    return Message("assistant")


def _content(parts: Iterable[_Text | _Refusal | _Image]) -> tuple[Text | Image, ...]:
    return tuple(part for part in map(_part, parts) if part != Text(""))


def _part(part: _Text | _Refusal | _Image) -> Text | Image:
    match part:
        case _Text(text=text) | _Refusal(refusal=text):
            return Text(text)
        case _Image(image_url=url, detail=detail):
            return Image(url, detail)


def _thought(item: _Reasoning) -> Reasoning:
    text = "".join(one.text for one in item.content or item.summary)
    seal = item.encrypted_content
    if seal is not None and seal.startswith(HIDDEN):
        return Reasoning(text, redacted=seal.removeprefix(HIDDEN))
    return Reasoning(text, signature=seal)
