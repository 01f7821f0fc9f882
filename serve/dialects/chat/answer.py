"""A whole chat completion: our answer to OpenAI's JSON. Pure."""

from __future__ import annotations

import time
from typing import Any

from models.messages import Completion, Source, Usage
from serve.dialects.dialect import Asked
from serve.dialects.extension import cited, told


def whole(answer: Completion, asked: Asked, identity: str) -> dict[str, Any]:
    """A `chat.completion`."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.text if answer.message.content or not answer.message.tool_calls else None,
        "refusal": None,
    }
    if answer.message.thought:
        message["reasoning_content"] = answer.message.thought
    if answer.message.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in answer.message.tool_calls
        ]
    if notes := citations(answer.text, answer.sources):
        message["annotations"] = notes
    return {
        "id": f"chatcmpl-{identity}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer.model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": answer.finish_reason,
            }
        ],
        "usage": usage(answer.usage),
        "fusion": told(answer, asked.extension),
    }


def usage(used: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": used.input,
        "completion_tokens": used.output,
        "total_tokens": used.input + used.output,
        "prompt_tokens_details": {"cached_tokens": used.cached},
        "completion_tokens_details": {"reasoning_tokens": used.reasoning},
    }


def citations(text: str, sources: tuple[Source, ...]) -> list[dict[str, Any]]:
    """Where the answer cites its sources."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "url": source.url,
                "title": source.title,
                "start_index": start,
                "end_index": end,
            },
        }
        for source, start, end in cited(text, sources)
    ]
