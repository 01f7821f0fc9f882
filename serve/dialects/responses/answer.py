"""A whole response: our answer to OpenAI's JSON. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from models.errors import FusionError
from models.messages import FUSED, Completion, Reasoning, Source, ToolCall, Usage
from serve.dialects.dialect import Asked
from serve.dialects.extension import cited, told
from serve.dialects.responses.items import HIDDEN

Item = dict[str, Any]

#: What an item of a fusion tells, by the Fusion contract.
_RESULT = ("analysis", "responses", "failed_models", "failure_reason", "error", "sources")
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def whole(answer: Completion, asked: Asked, identity: str) -> dict[str, Any]:
    """A `response`, with the items and ids that its stream has."""
    items = list(_items(answer, identity))
    return ended(envelope(asked, answer.model, identity), answer, asked, items)


def _items(answer: Completion, identity: str) -> Iterator[Item]:
    """What was thought, said and found, in order, and what is called."""
    places = count()

    def named(prefix: str) -> str:
        return f"{prefix}_{identity}_{next(places)}"

    for number, turn in enumerate(answer.course, 1):
        if turn == FUSED:
            unkept = named("fus")
            yield fusion_item(answer.extension.get("id", unkept), fusion_result(answer))
        for thought in turn.reasoning:
            yield reasoning_item(named("rs"), thought)
        if turn.text:
            # Sources are known at the end, when a stream has closed what was said before.
            is_last = number == len(answer.course) and not answer.message.tool_calls
            yield message_item(named("msg"), turn.text, answer.sources if is_last else ())
    if not answer.text and not answer.message.tool_calls:
        yield message_item(named("msg"), "")  # an answer without a word is one all the same
    for call in answer.message.tool_calls:
        yield call_item(named("fc"), call)


def envelope(asked: Asked, model: str, identity: str) -> dict[str, Any]:
    """A response of which nothing is known but its request."""
    return {
        "id": f"resp_{identity}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "store": asked.store,
        "truncation": "disabled",
        "usage": None,
        **asked.echo,
    }


def ended(
    response: Mapping[str, Any], answer: Completion, asked: Asked, items: list[Item]
) -> dict[str, Any]:
    """The same with this answer in it."""
    reason = _INCOMPLETE.get(answer.finish_reason)
    failed = answer.finish_reason == "error"
    return {
        **response,
        "status": "failed" if failed else "incomplete" if reason else "completed",
        "completed_at": int(time.time()),
        "error": _error("The model broke off its answer.") if failed else None,
        "incomplete_details": {"reason": reason} if reason else None,
        "model": answer.model,
        "output": items,
        # Known at the end: a store that does not answer keeps nothing.
        "store": asked.store,
        "usage": usage(answer.usage),
        "fusion": told(answer, asked.extension),
    }


def broken(response: Mapping[str, Any], error: FusionError, items: list[Item]) -> dict[str, Any]:
    """The same, given up for this error."""
    return {
        **response,
        "status": "failed",
        "error": _error(error.message, error.code),
        "output": items,
    }


def _error(message: str, code: str = "server_error") -> dict[str, Any]:
    return {"code": code, "message": message}


def usage(used: Usage) -> dict[str, Any]:
    return {
        "input_tokens": used.input,
        "input_tokens_details": {
            "cached_tokens": used.cached,
            "cache_write_tokens": used.cache_written,
        },
        "output_tokens": used.output,
        "output_tokens_details": {"reasoning_tokens": used.reasoning},
        "total_tokens": used.input + used.output,
    }


def message_item(
    identity: str, text: str, found: tuple[Source, ...] = (), status: str = "completed"
) -> Item:
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [text_part(text, found)],
    }


def text_part(text: str, found: tuple[Source, ...] = ()) -> dict[str, Any]:
    return {
        "type": "output_text",
        "text": text,
        "annotations": [
            {
                "type": "url_citation",
                "url": source.url,
                "title": source.title,
                "start_index": start,
                "end_index": end,
            }
            for source, start, end in cited(text, found)
        ],
        "logprobs": [],
    }


def reasoning_item(identity: str, thought: Reasoning, status: str = "completed") -> Item:
    """A thought's seal, or the whole of a hidden thought, is its encrypted content."""
    hidden = None if thought.redacted is None else HIDDEN + thought.redacted
    return {
        "id": identity,
        "type": "reasoning",
        "status": status,
        "summary": [],
        "content": [thought_part(thought.text)] if thought.text else [],
        "encrypted_content": hidden or thought.signature,
    }


def thought_part(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}


def call_item(identity: str, call: ToolCall, status: str = "completed") -> Item:
    return {
        "id": identity,
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    }


def fusion_item(identity: str, result: Mapping[str, Any], status: str = "completed") -> Item:
    told = {key: result[key] for key in _RESULT if result.get(key) is not None}
    if "error" in result:
        status = "failed"
    return {"id": identity, "type": "openrouter:fusion", "status": status, **told}


def fusion_result(answer: Completion) -> dict[str, Any]:
    """What a fusion found for this answer, as its item tells it."""
    return {key: answer.extension[key] for key in _RESULT if key in answer.extension}
