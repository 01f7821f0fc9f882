"""OpenAI's chat JSON as models speak it: our messages out, their answers in. Pure functions.

Both the engine that we host (vLLM) and every flagship with a compatible API speak it, so this
is written once. Unknown fields of an answer are ignored and missing ones never crash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast, get_args

from models.errors import (
    BadRequest,
    ContextTooLong,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    Unavailable,
    UpstreamError,
)
from models.messages import (
    Completion,
    Done,
    Event,
    FinishReason,
    Image,
    Message,
    Named,
    Reasoning,
    ReasoningDelta,
    Request,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    Usage,
)


def payload(request: Request, *, model: str, stream: bool) -> dict[str, Any]:
    """The JSON body that asks `model` for this request."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in request.messages],
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    optional = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "tools": [_tool(tool) for tool in request.tools] or None,
        "tool_choice": _tool_choice(request.tool_choice),
        "parallel_tool_calls": request.parallel_tool_calls if request.tools else None,
        "response_format": _response_format(request),
        "reasoning_effort": request.effort,
    }
    body.update({key: value for key, value in optional.items() if value is not None})
    return body


def _message(message: Message) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.thought:
        out["reasoning_content"] = message.thought
    if message.name:
        out["name"] = message.name
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        out["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    return out


def _content(message: Message) -> str | list[dict[str, Any]] | None:
    if all(isinstance(part, Text) for part in message.content):
        return message.text or (None if message.tool_calls else "")
    return [
        {"type": "text", "text": part.text} if isinstance(part, Text) else _image(part)
        for part in message.content
    ]


def _image(part: Image) -> dict[str, Any]:
    url = {"url": part.url} | ({"detail": part.detail} if part.detail else {})
    return {"type": "image_url", "image_url": url}


def _tool(tool: Any) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice | None) -> Any:
    if isinstance(choice, Named):
        return {"type": "function", "function": {"name": choice.name}}
    return choice


def _response_format(request: Request) -> dict[str, Any] | None:
    wanted = request.response_format
    if wanted is None or wanted.kind == "text":
        return None
    if wanted.kind == "json_object":
        return {"type": "json_object"}
    schema: dict[str, Any] = {"name": wanted.name, "schema": dict(wanted.schema or {})}
    if wanted.description is not None:
        schema["description"] = wanted.description
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": schema}


def completion(body: Mapping[str, Any], *, model: str) -> Completion:
    """The answer in this JSON body, said to be `model`'s. Raises UpstreamError without one."""
    choice = _first(body.get("choices"))
    raw = choice.get("message")
    if not isinstance(raw, Mapping):
        raise UpstreamError(f"Model '{model}' sent a reply without an answer in it.")
    calls = tuple(
        ToolCall(
            id=str(call.get("id") or f"call_{index}"),
            name=str(_mapping(call.get("function")).get("name") or ""),
            arguments=str(_mapping(call.get("function")).get("arguments") or "{}"),
        )
        for index, call in enumerate(_mappings(raw.get("tool_calls")))
    )
    return Completion(
        model=model,
        message=_answer(str(raw.get("content") or ""), _thought(raw), calls),
        finish_reason=_finish(choice.get("finish_reason"), calls),
        usage=usage(body.get("usage")),
    )


def _answer(text: str, thought: str, calls: tuple[ToolCall, ...]) -> Message:
    return Message(
        "assistant",
        (Text(text),) if text else (),
        tool_calls=calls,
        reasoning=(Reasoning(thought),) if thought else (),
    )


def _thought(raw: Mapping[str, Any]) -> str:
    """What the model thought: `reasoning` at vLLM and OpenRouter, `reasoning_content` elsewhere."""
    return str(raw.get("reasoning") or raw.get("reasoning_content") or "")


def usage(raw: Any) -> Usage:
    """Token counts, zero where the model did not say."""
    raw = _mapping(raw)
    entered, written = _count(raw.get("prompt_tokens")), _count(raw.get("completion_tokens"))
    cached = _count(_mapping(raw.get("prompt_tokens_details")).get("cached_tokens"))
    reasoning = _count(_mapping(raw.get("completion_tokens_details")).get("reasoning_tokens"))
    # Parts of a whole: a provider that counts otherwise must not make a cost negative.
    return Usage(entered, written, min(cached, entered), min(reasoning, written))


@dataclass(slots=True)
class Deltas:
    """Turns the chunks of one streamed answer into events, and in the end into the whole."""

    model: str
    _text: list[str] = field(default_factory=list)
    _thought: list[str] = field(default_factory=list)
    _calls: dict[int, ToolCall] = field(default_factory=dict)
    _finish: Any = None
    _usage: Usage = field(default_factory=Usage)

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        """The events in one chunk. Raises what an error chunk says."""
        if chunk.get("error"):
            raise error(None, chunk, model=self.model)
        if chunk.get("usage"):
            self._usage = usage(chunk["usage"])
        choice = _first(chunk.get("choices"))
        self._finish = choice.get("finish_reason") or self._finish
        delta = _mapping(choice.get("delta"))
        if thought := _thought(delta):
            self._thought.append(thought)
            yield ReasoningDelta(thought)
        if text := delta.get("content"):
            self._text.append(str(text))
            yield TextDelta(str(text))
        for raw in _mappings(delta.get("tool_calls")):
            yield self._tool_call(raw)

    def _tool_call(self, raw: Mapping[str, Any]) -> ToolCallDelta:
        index = _count(raw.get("index"))
        function = _mapping(raw.get("function"))
        piece = str(function.get("arguments") or "")
        known = self._calls.get(index)
        if known is None:
            identity = str(raw.get("id") or f"call_{index}")
            known = ToolCall(identity, str(function.get("name") or ""), "")
            self._calls[index] = ToolCall(known.id, known.name, piece)
            return ToolCallDelta(index, piece, id=known.id, name=known.name)
        self._calls[index] = ToolCall(known.id, known.name, known.arguments + piece)
        return ToolCallDelta(index, piece)

    def done(self) -> Done:
        """The last event. Raises UpstreamError if the stream broke off without an end."""
        if self._finish is None:
            raise UpstreamError(f"The stream of model '{self.model}' broke off before its end.")
        calls = tuple(
            replace(call, arguments=call.arguments or "{}")
            for _, call in sorted(self._calls.items())
        )
        return Done(
            Completion(
                model=self.model,
                message=_answer("".join(self._text), "".join(self._thought), calls),
                finish_reason=_finish(self._finish, calls),
                usage=self._usage,
            )
        )


#: What the codes of well-known providers mean where a body comes without a status.
_STATUS_OF = {
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 402,
    "overloaded": 529,
}


def error(status: int | None, body: Any, *, model: str) -> FusionError:
    """The failure that an error body means. Its text is passed on, its headers never are."""
    detail = _mapping(body).get("error", body)
    detail = detail if isinstance(detail, Mapping) else {"message": detail}
    message = str(detail.get("message") or f"Model '{model}' failed without a reason.")[:2000]
    code = detail.get("code")
    status = status or (code if isinstance(code, int) else _STATUS_OF.get(str(code), 502))
    param = detail.get("param") if isinstance(detail.get("param"), str) else None
    if status in (400, 413, 422):
        lowered = message.lower()
        too_long = code == "context_length_exceeded" or (
            "context length" in lowered or "maximum model length" in lowered
        )
        return (ContextTooLong if too_long else BadRequest)(message, param=param)
    if status == 429:
        return Overloaded(message, retry_after_s=1.0)
    if status in (401, 402, 403):
        return UpstreamError(
            f"Model '{model}' was refused by its provider ({status}). Check its API key."
        )
    if status == 404:
        return UpstreamError(f"The provider of model '{model}' does not know it: {message}")
    if status in (408, 504):
        return DeadlineExceeded(message)
    if status in (503, 529):
        # What these say is that no work was begun. A 500 may come after it, and be billed.
        return Unavailable(message)
    return UpstreamError(message)


def _finish(raw: Any, calls: tuple[ToolCall, ...]) -> FinishReason:
    if calls and raw in ("stop", "tool_calls", "function_call"):
        return "tool_calls"
    return cast(FinishReason, raw) if raw in get_args(FinishReason) else "stop"


def _first(choices: Any) -> Mapping[str, Any]:
    return _mapping(choices[0]) if isinstance(choices, list) and choices else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
