"""The blocks of a conversation in the messages dialect, and the messages that they make. Pure.

A user's turn may hold results of tools beside its text; inside, each result is a message of its
own. `citations` are read and do not travel: they change no answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from models.errors import BadRequest
from models.messages import Cache, Image, Message, Reasoning, Text, ToolCall
from serve.dialects.shape import Listed, Loose, Shape, refuse_silence


class CacheControl(Shape):
    type: Literal["ephemeral"]
    ttl: Cache | None = None


def cache_of(control: CacheControl | None) -> Cache | None:
    """For how long; the dialect's own default is five minutes."""
    return None if control is None else control.ttl or "5m"


class _Block(Loose):
    cache_control: CacheControl | None = None

    @property
    def cache(self) -> Cache | None:
        return cache_of(self.cache_control)


class TextBlock(_Block):
    type: Literal["text"]
    text: str


class _Base64(Shape):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str = Field(min_length=1)

    @property
    def address(self) -> str:
        return f"data:{self.media_type};base64,{self.data}"


class _Url(Shape):
    type: Literal["url"]
    url: str = Field(pattern=r"^https?://")

    @property
    def address(self) -> str:
        return self.url


class _ImageBlock(_Block):
    type: Literal["image"]
    source: Annotated[_Base64 | _Url, Field(discriminator="type")]


class _ToolUse(_Block):
    type: Literal["tool_use"]
    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    input: dict[str, Any]


class _Thinking(_Block):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class _Redacted(_Block):
    type: Literal["redacted_thinking"]
    data: str


def as_blocks(value: Any) -> Any:
    """A bare text is a row of one text block."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


_Shown = Annotated[TextBlock | _ImageBlock, Field(discriminator="type")]


class _ToolResult(_Block):
    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1)
    content: Annotated[Listed[_Shown], BeforeValidator(as_blocks)] = Field(default_factory=list)
    is_error: bool | None = None


_UserBlock = Annotated[TextBlock | _ImageBlock | _ToolResult, Field(discriminator="type")]
_AssistantBlock = Annotated[
    TextBlock | _ToolUse | _Thinking | _Redacted, Field(discriminator="type")
]


class _UserTurn(Shape):
    role: Literal["user"]
    content: Annotated[Listed[_UserBlock], BeforeValidator(as_blocks)]


class _SystemTurn(Shape):
    role: Literal["system"]
    content: Annotated[Listed[TextBlock], BeforeValidator(as_blocks)]


class _AssistantTurn(Shape):
    role: Literal["assistant"]
    content: Annotated[Listed[_AssistantBlock], BeforeValidator(as_blocks)]


Turn = Annotated[_UserTurn | _AssistantTurn | _SystemTurn, Field(discriminator="role")]


def conversation(turns: Iterable[Turn]) -> tuple[Message, ...]:
    """The messages in these turns."""
    messages: list[Message] = []
    for index, turn in enumerate(turns):
        if not turn.content:
            raise BadRequest(f"Message {index} is empty.", param=f"messages.{index}.content")
        match turn:
            case _UserTurn(content=blocks):
                messages += _of_user(blocks)
            case _SystemTurn(content=blocks):
                messages.append(Message("system", _shown(blocks)))
            case _AssistantTurn(content=blocks):
                messages.append(_of_assistant(blocks))
    refuse_silence(messages, "messages")
    return tuple(messages)


def _of_user(blocks: Iterable[_UserBlock]) -> Iterator[Message]:
    said: list[Text | Image] = []
    for block in blocks:
        if not isinstance(block, _ToolResult):
            said += _shown((block,))
            continue
        if said:
            yield Message("user", tuple(said))
            said = []
        yield Message(
            "tool",
            _shown(block.content),
            tool_call_id=block.tool_use_id,
            is_error=bool(block.is_error),
            cache=block.cache,
        )
    if said:
        yield Message("user", tuple(said))


def _of_assistant(blocks: Iterable[_AssistantBlock]) -> Message:
    said: list[Text | Image] = []
    calls: list[ToolCall] = []
    thoughts: list[Reasoning] = []
    cache: Cache | None = None
    for block in blocks:
        match block:
            case TextBlock():
                said += _shown((block,))
            case _ToolUse(id=identity, name=name, input=given):
                cache = block.cache
                calls.append(ToolCall(identity, name, json.dumps(given, ensure_ascii=False)))
            case _Thinking(thinking=text, signature=signature):
                thoughts.append(Reasoning(text, signature=signature or None))
            case _Redacted(data=data):
                thoughts.append(Reasoning(redacted=data))
    return Message("assistant", tuple(said), tuple(calls), reasoning=tuple(thoughts), cache=cache)


def _shown(blocks: Iterable[TextBlock | _ImageBlock]) -> tuple[Text | Image, ...]:
    """Without texts that say nothing, which some providers refuse."""
    return tuple(
        Text(block.text, block.cache)
        if isinstance(block, TextBlock)
        else Image(block.source.address, cache=block.cache)
        for block in blocks
        if not isinstance(block, TextBlock) or block.text
    )
