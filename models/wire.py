"""OpenAI's chat JSON as models speak it: our messages out, their answers in. Pure functions.

Both the engine that we host (vLLM) and every flagship with a compatible API speak it, so this
is written once. Unknown fields of an answer are ignored and missing ones never crash.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from models import loose
from models.call import new_id
from models.errors import (
    AccountRefused,
    BadRequest,
    ContextTooLong,
    DeadlineExceeded,
    FusionError,
    RateLimited,
    Refused,
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
    Source,
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
        "logprobs": sampling.logprobs or None,
    }
    body.update({key: value for key, value in optional.items() if value is not None})
    return body


def _message(message: Message) -> dict[str, Any]:
    # OpenAI's own word for it is known to few others, and OpenAI takes both.
    role = "system" if message.role == "developer" else message.role
    out: dict[str, Any] = {"role": role, "content": _content(message)}
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
            id=str(call.get("id") or new_id("call")),
            name=str(loose.mapping(call.get("function")).get("name") or ""),
            arguments=loose.as_json(loose.mapping(call.get("function")).get("arguments")) or "{}",
        )
        for call in loose.mappings(raw.get("tool_calls"))
    )
    said, thought = _spoken(raw)
    refusal = str(raw.get("refusal") or "")
    reason = choice.get("finish_reason")
    _refuse_broken(reason, model)
    return Completion(
        model=model,
        message=_answer(said or refusal, thought, calls),
        finish_reason=_finish(reason, calls, refused=bool(refusal)),
        stop_sequence=_stopped_by(choice),
        usage=usage(body.get("usage")),
        sources=_sources(raw),
        request_id=_identity(body),
        logprob=_logprob(choice),
    )


def _logprob(choice: Mapping[str, Any]) -> float | None:
    """Mean log probability of the answer's tokens, where it came with them."""
    tokens = loose.mappings(loose.mapping(choice.get("logprobs")).get("content"))
    told = [token.get("logprob") for token in tokens]
    # An impossible token is told as -9999: one of them must not drown all others.
    known = [min(0.0, max(one, _LEAST_LOGPROB)) for one in told if _is_number(one)]
    return math.fsum(known) / len(known) if known else None


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _identity(body: Mapping[str, Any]) -> str | None:
    return str(body["id"])[:100] if body.get("id") else None


def _sources(raw: Mapping[str, Any]) -> tuple[Source, ...]:
    cited = [
        loose.mapping(note.get("url_citation")) for note in loose.mappings(raw.get("annotations"))
    ]
    return tuple(
        Source(str(page["url"]), loose.text(page.get("title"))) for page in cited if page.get("url")
    )


def _answer(text: str, thought: str, calls: tuple[ToolCall, ...]) -> Message:
    return Message(
        "assistant",
        (Text(text),) if text else (),
        tool_calls=calls,
        reasoning=(Reasoning(thought),) if thought else (),
    )


def _spoken(raw: Mapping[str, Any]) -> tuple[str, str]:
    """What the model said and thought: `reasoning` at vLLM and OpenRouter, `reasoning_content`
    elsewhere, and parts of the content at Mistral."""
    said, thought = _joined(raw.get("content"))
    aside, _ = _joined(raw.get("reasoning") or raw.get("reasoning_content"))
    return said, aside + thought


def _joined(content: Any) -> tuple[str, str]:
    """The texts of a content in parts, and the thoughts."""
    if not isinstance(content, list | Mapping):
        return str(content or ""), ""
    said: list[str] = []
    thought: list[str] = []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, Mapping) and part.get("type") == "thinking":
            thought.append(_joined(part.get("thinking"))[0])
        else:
            text = part.get("text") if isinstance(part, Mapping) else part
            said.append(text if isinstance(text, str) else "")
    return "".join(said), "".join(thought)


def usage(raw: Any) -> Usage:
    """Token counts, zero where the model did not say."""
    raw = loose.mapping(raw)
    read, written = (loose.mapping(raw.get(f"{part}_tokens_details")) for part in _PARTS)
    prompt, completion, total = (
        loose.count(raw.get(f"{part}_tokens")) for part in (*_PARTS, "total")
    )
    return tally(
        prompt,
        # Gemini and xAI bill thoughts as output and count them in the total alone.
        max(completion, total - prompt) if prompt else completion,
        # DeepSeek says it in a field of its own.
        cached=read.get("cached_tokens") or raw.get("prompt_cache_hit_tokens"),
        reasoning=written.get("reasoning_tokens"),
        cache_written=read.get("cache_write_tokens"),
    )


_PARTS = ("prompt", "completion")
_LEAST_LOGPROB = -20.0


def tally(
    read: Any, written: Any, *, cached: Any = 0, reasoning: Any = 0, cache_written: Any = 0
) -> Usage:
    """Counts that came as anything. Parts of a whole are held to it: a provider that counts
    otherwise must not make a cost negative."""
    whole, out = loose.count(read), loose.count(written)
    from_cache = min(loose.count(cached), whole)
    to_cache = min(loose.count(cache_written), whole - from_cache)
    return Usage(whole, out, from_cache, min(loose.count(reasoning), out), to_cache)


@dataclass(slots=True)
class Deltas:
    """Turns the chunks of one streamed answer into events, and in the end into the whole."""

    model: str
    _text: list[str] = field(default_factory=list)
    _thought: list[str] = field(default_factory=list)
    _calls: dict[int, ToolCall] = field(default_factory=dict)
    #: Where the call stands that the stream last said at an index.
    _places: dict[int, int] = field(default_factory=dict)
    _finish: Any = None
    _stopped_by: str | None = None
    _usage: Usage = field(default_factory=Usage)
    _refused: bool = False
    _sources: tuple[Source, ...] = ()
    _identity: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come. Chat streams say so outside of their chunks."""
        return False

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        """The events in one chunk. Raises what an error chunk says."""
        if chunk.get("error"):
            raise error(None, chunk, model=self.model)
        if chunk.get("usage"):
            self._usage = usage(chunk["usage"])
        self._identity = self._identity or _identity(chunk)
        choice = _first(chunk.get("choices"))
        self._finish = choice.get("finish_reason") or self._finish
        self._stopped_by = _stopped_by(choice) or self._stopped_by
        delta = loose.mapping(choice.get("delta"))
        said, thought = _spoken(delta)
        if thought:
            self._thought.append(thought)
            yield ReasoningDelta(thought)
        self._sources += _sources(delta)
        self._refused = self._refused or bool(delta.get("refusal"))
        if text := said or str(delta.get("refusal") or ""):
            self._text.append(text)
            yield TextDelta(text)
        for raw in loose.mappings(delta.get("tool_calls")):
            yield self._tool_call(raw)

    def _tool_call(self, raw: Mapping[str, Any]) -> ToolCallDelta:
        said = loose.count(raw.get("index"))
        function = loose.mapping(raw.get("function"))
        piece, name = loose.as_json(function.get("arguments")), str(function.get("name") or "")
        index = self._places.get(said, said)
        known = self._calls.get(index)
        # Some providers say no index, or 0 for each of several calls.
        is_other = known is not None and name and raw.get("id") not in (None, "", known.id)
        if known is None or is_other:
            index = self._places[said] = said if known is None else max(self._calls) + 1
            known = ToolCall(str(raw.get("id") or new_id("call")), name, "")
            self._calls[index] = ToolCall(known.id, known.name, piece)
            return ToolCallDelta(index, piece, id=known.id, name=known.name)
        self._calls[index] = ToolCall(known.id, known.name, known.arguments + piece)
        return ToolCallDelta(index, piece)

    def done(self) -> Done:
        """The last event. Raises UpstreamError if the stream broke off without an end."""
        if self._finish is None:
            raise UpstreamError(f"The stream of model '{self.model}' broke off before its end.")
        _refuse_broken(self._finish, self.model)
        calls = tuple(
            replace(call, arguments=call.arguments or "{}")
            for _, call in sorted(self._calls.items())
        )
        return Done(
            Completion(
                model=self.model,
                message=_answer("".join(self._text), "".join(self._thought), calls),
                finish_reason=_finish(self._finish, calls, refused=self._refused),
                stop_sequence=self._stopped_by,
                usage=self._usage,
                sources=self._sources,
                request_id=self._identity,
            )
        )


#: What the codes and types of well-known providers mean where a body comes without a status.
_STATUS_OF = {
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "invalid_prompt": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "timeout_error": 504,
    "overloaded": 529,
    "overloaded_error": 529,
}
#: The account is at fault, whatever the status says: to wait a little does not help.
_ACCOUNT = {
    "insufficient_quota": 402,
    "billing_error": 402,
    "billing_hard_limit_reached": 402,
    # Kimi, Qwen, GLM.
    "exceeded_current_quota_error": 402,
    "Arrearage": 402,
    "1113": 402,
}
#: The same where only the sentence says so: Anthropic, GLM, Gemini, xAI. Beginnings, because
#: what a caller wrote may stand within a message.
_ACCOUNT_SAID = (
    ("your credit balance is too low", 402),
    ("insufficient balance", 402),
    ("api key not valid", 401),
    ("incorrect api key", 401),
)
_TOO_LONG = ("context length", "context window", "maximum model length", "prompt is too long")


class ProviderForbids(Refused):
    """A provider does not want to work on this one request: that says nothing about the next."""


def error(status: int | None, body: Any, *, model: str) -> FusionError:
    """The failure that an error body means, in OpenAI's shape or Anthropic's.

    Its text is passed on, its headers never are.
    """
    detail = loose.mapping(body).get("error", body)
    detail = detail if isinstance(detail, Mapping) else {"message": detail}
    message = str(detail.get("message") or f"Model '{model}' failed without a reason.")[:2000]
    code = detail.get("code")
    named = [str(name) for name in (code, detail.get("type")) if name is not None]
    if status is None and isinstance(code, int):
        status = code
    status = _at_fault(named, message) or status
    if status is None:
        status = next((_STATUS_OF[name] for name in named if name in _STATUS_OF), 502)
    param = detail.get("param") if isinstance(detail.get("param"), str) else None
    if status in (400, 413, 422):
        too_long = code == "context_length_exceeded" or any(
            words in message.lower() for words in _TOO_LONG
        )
        return (ContextTooLong if too_long else BadRequest)(message, param=param)
    if status == 429:
        return RateLimited(message, retry_after_s=1.0)
    if status in (401, 402):
        why = "does not accept its key" if status == 401 else "says that its account has no money"
        return AccountRefused(f"The provider of model '{model}' {why} ({status}).")
    if status == 403:
        return ProviderForbids(f"The provider of model '{model}' forbids this (403): {message}")
    if status == 404:
        return Refused(f"The provider of model '{model}' does not know it: {message}")
    if status in (408, 504):
        return DeadlineExceeded(message)
    if status in (503, 529):
        # What these say is that no work was begun. A 500 may come after it, and be billed.
        return Unavailable(message)
    return UpstreamError(message)


def _at_fault(named: list[str], message: str) -> int | None:
    """401 or 402 where our account is what is wrong."""
    said = (status for begin, status in _ACCOUNT_SAID if message.lower().startswith(begin))
    return next((_ACCOUNT[name] for name in named if name in _ACCOUNT), next(said, None))


def _stopped_by(choice: Mapping[str, Any]) -> str | None:
    """The text of `stop` that ended the answer: vLLM says which (or a token's number), others
    do not."""
    said = choice.get("stop_reason")
    return said if isinstance(said, str) and said else None


#: Why an answer ended, where it is not for what it says. GLM, Mistral and others have own words.
_FINISH: Mapping[str, FinishReason] = {
    "tool_calls": "tool_calls",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
    "sensitive": "content_filter",
}
#: The provider broke the answer off: DeepSeek, GLM, OpenRouter.
_BROKEN = ("insufficient_system_resource", "network_error", "error")


def _finish(raw: Any, calls: tuple[ToolCall, ...], *, refused: bool = False) -> FinishReason:
    if refused:
        return "content_filter"
    if calls and raw in ("stop", "tool_calls", "function_call"):
        return "tool_calls"
    return _FINISH.get(raw, "stop") if isinstance(raw, str) else "stop"


def _refuse_broken(reason: Any, model: str) -> None:
    """Raise UpstreamError for an answer that is none, or only a part: as for a stream that
    breaks off."""
    if reason in _BROKEN:
        raise UpstreamError(f"The answer of model '{model}' broke off before its end ({reason}).")


def _first(choices: Any) -> Mapping[str, Any]:
    return loose.mapping(choices[0]) if isinstance(choices, list) and choices else {}
