"""A whole message: our answer to Anthropic's JSON, and its errors. Pure."""

from __future__ import annotations

import json
from typing import Any

from models.errors import FusionError, UpstreamError
from models.messages import Completion, Reasoning, ToolCall, Usage
from serve.dialects.dialect import Asked
from serve.dialects.extension import told

_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error(error: FusionError) -> dict[str, Any]:
    """`{"type": "error", "error": {"type", "message"}}`; `param` and `code` are ours."""
    kind = _KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    detail = {"type": kind, "message": error.message, "param": error.param, "code": error.code}
    return {"type": "error", "error": detail}


def whole(answer: Completion, asked: Asked, identity: str) -> dict[str, Any]:
    """A `message`. Raises UpstreamError where the answer is none that this dialect can say."""
    said = answer.message
    content = [thinking_block(thought) for thought in said.reasoning]
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    cut = answer.finish_reason == "length"
    content += (tool_use_block(call, cut=cut) for call in said.tool_calls)
    return {
        **envelope(answer.model, identity),
        "content": content,
        **stopped(answer),
        "usage": usage(answer.usage),
        "fusion": told(answer, asked.extension),
    }


def envelope(model: str, identity: str) -> dict[str, Any]:
    """A message of which nothing is known yet."""
    return {
        "id": f"msg_{identity}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage(Usage()),
    }


def stopped(answer: Completion) -> dict[str, Any]:
    """Why it ended."""
    if answer.finish_reason == "error":
        raise UpstreamError(f"Model '{answer.model}' broke off its answer.")
    reason = _STOP[answer.finish_reason]
    if answer.finish_reason == "stop" and answer.stop_sequence is not None:
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": answer.stop_sequence}


def usage(used: Usage) -> dict[str, Any]:
    """`input_tokens` counts here what was neither read from a cache nor written to one."""
    return {
        "input_tokens": max(0, used.input - used.cached - used.cache_written),
        "cache_read_input_tokens": used.cached,
        "cache_creation_input_tokens": used.cache_written,
        "output_tokens": used.output,
        "output_tokens_details": {"thinking_tokens": used.reasoning},
    }


def thinking_block(thought: Reasoning) -> dict[str, Any]:
    if thought.redacted is not None:
        return {"type": "redacted_thinking", "data": thought.redacted}
    return {"type": "thinking", "thinking": thought.text, "signature": thought.signature or ""}


def tool_use_block(call: ToolCall, *, cut: bool = False) -> dict[str, Any]:
    """Where the answer was cut off, what is no object is only half of one."""
    try:
        given = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict) and cut:
        given = {}
    if not isinstance(given, dict):
        raise UpstreamError(f"The model called '{call.name}' with arguments that are no object.")
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": given}
