"""What a model can take of a history that others wrote. Pure.

tool calls and results   as they are for a model that calls tools; else as text, so that
                         what was found is not lost
images                   as they are for a model that sees; else a word in their place
reasoning                back to the model that thought it; nobody else gets it, as a
                         provider's seal is worth nothing elsewhere
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from models.messages import Image, Message, Text
from serve.control.sessions.store import Item

NO_IMAGE = "[an image that this model cannot see]"


def carried(
    items: Iterable[Item], *, model: str | None, tools: bool, images: bool
) -> tuple[Message, ...]:
    """The messages for `model` (None: not known yet), which takes tools and images or not."""
    return tuple(_carried(item, model=model, tools=tools, images=images) for item in items)


def _carried(item: Item, *, model: str | None, tools: bool, images: bool) -> Message:
    message = item.message
    if message.reasoning and (model is None or item.model != model):
        message = replace(message, reasoning=())
    if not images and any(isinstance(part, Image) for part in message.content):
        seen = (Text(NO_IMAGE) if isinstance(part, Image) else part for part in message.content)
        message = replace(message, content=tuple(seen))
    if tools:
        return message
    if message.role == "tool":
        return Message("user", (Text(f"[result of a tool] {message.text}"),))
    if message.tool_calls:
        called = "\n".join(
            f"[called the tool {call.name} with {call.arguments}]" for call in message.tool_calls
        )
        message = replace(message, content=(*message.content, Text(called)), tool_calls=())
    return message
