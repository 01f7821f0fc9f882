"""The most that a call can use, known before it leaves. Pure functions.

A token is never less than a byte of text, so bytes bound tokens whatever the tokenizer is. What
a model reads beside the text (roles, tools, pictures) counts by the declared amounts below.
"""

from __future__ import annotations

import json
from unicodedata import is_normalized, normalize

from models.messages import (
    Completion,
    Event,
    Image,
    Message,
    ReasoningDelta,
    Request,
    TextDelta,
    ToolCallDelta,
    Usage,
)

#: What a chat template adds to a request, and to each message and tool call in it.
REQUEST_TOKENS = 64
MESSAGE_TOKENS = 16
#: What providers add where tools are offered, and to each of them.
TOOLS_TOKENS = 1024
TOOL_TOKENS = 64
#: Tokens that may be on their way, or without text, when a stream breaks off.
SLACK_TOKENS = 256


def input_tokens(request: Request, image_tokens: int) -> int:
    """The most tokens that this can be at any model, where a picture is at most
    `image_tokens`."""
    tokens = REQUEST_TOKENS
    for message in request.messages:
        tokens += _message(message, image_tokens)
    if request.tools:
        tokens += TOOLS_TOKENS
    for tool in request.tools:
        tokens += TOOL_TOKENS + text_tokens(tool.name) + text_tokens(tool.description)
        tokens += len(json.dumps(dict(tool.parameters)))
    if (wanted := request.response_format) is not None and wanted.schema is not None:
        tokens += TOOL_TOKENS + text_tokens(wanted.description or "")
        tokens += wanted.schema_characters
    return tokens


def has_images(request: Request) -> bool:
    return any(isinstance(part, Image) for one in request.messages for part in one.content)


def text_tokens(text: str) -> int:
    """The most tokens that this text can be."""
    if text.isascii():
        return len(text)
    raw = len(text.encode("utf-8", "surrogatepass"))
    if is_normalized("NFKC", text):
        return raw
    # Some tokenizers normalise first, and one character may become eighteen.
    return max(raw, len(normalize("NFKC", text).encode("utf-8", "surrogatepass")))


def received_tokens(event: Event) -> int:
    """The most tokens that a piece of a stream can have been."""
    match event:
        case TextDelta(text) | ReasoningDelta(text):
            return text_tokens(text)
        case ToolCallDelta():
            return text_tokens(event.arguments) + text_tokens(event.name or "")
    return 0


def answered(completion: Completion, entered: int, most_output: int) -> Usage:
    """What an answer used at most, whose model did not say."""
    written = SLACK_TOKENS + _message(completion.message, 0)
    return Usage(input=entered, output=min(written, most_output))


def _message(message: Message, image_tokens: int) -> int:
    tokens = MESSAGE_TOKENS
    if message.name:
        tokens += text_tokens(message.name)
    if message.tool_call_id:
        tokens += _id_tokens(message.tool_call_id)
    for part in message.content:
        tokens += image_tokens if isinstance(part, Image) else text_tokens(part.text)
    for call in message.tool_calls:
        tokens += MESSAGE_TOKENS + text_tokens(call.name) + text_tokens(call.arguments)
        tokens += _id_tokens(call.id)
    for thought in message.reasoning:
        tokens += text_tokens(thought.text)
        # Sealed thoughts go back as text of their own length.
        tokens += len(thought.redacted or "") + len(thought.signature or "")
    return tokens


def _id_tokens(identity: str) -> int:
    """Some models read the ids of calls. An ordinary one is in `MESSAGE_TOKENS`."""
    return 0 if len(identity) <= MESSAGE_TOKENS else text_tokens(identity)
