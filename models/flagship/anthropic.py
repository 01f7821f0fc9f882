"""Anthropic's messages dialect: turns of blocks, the system prompt beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from models import loose, wire
from models.errors import UpstreamError
from models.flagship.dialect import OPENAI_SEAL
from models.flagship.schema import is_finite, reduced
from models.messages import (
    Cache,
    Completion,
    Done,
    Effort,
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
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
    system,
)
from models.spec import AnthropicModel

VERSION = "2023-06-01"
ANTHROPIC_HOST = "api.anthropic.com"
#: The API wants a bound on every answer. Ours is the catalog's; this stands in where none came.
MAX_TOKENS = 4096
#: Tokens to think with, for models that want a budget instead of an effort.
BUDGETS: Mapping[Effort, int] = {
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 16384,
    "xhigh": 32768,
}
LEAST_BUDGET = 1024
_FINISH: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_JSON_ONLY = "Answer with one JSON object and nothing else."


class Anthropic:
    """The messages dialect. It has no `seed` and no penalties, which only nudge a model: they
    are left out. A later system message becomes the user's, in its place."""

    path = "/messages"
    headers: Mapping[str, str] = {"anthropic-version": VERSION}

    def __init__(self, spec: AnthropicModel) -> None:
        self._budgets = spec.thinking == "budget"
        self.key_headers: Mapping[str, str] = {"x-api-key": ""}
        if httpx.URL(spec.base_url).host != ANTHROPIC_HOST:
            # Others that speak the dialect, vLLM among them, look for the key where OpenAI has it.
            self.key_headers = {"x-api-key": "", "Authorization": "Bearer "}

    def payload(self, request: Request, *, model: str, stream: bool) -> dict[str, Any]:
        sampling = request.sampling
        instructions, messages = _conversation(request)
        limit = sampling.max_tokens or MAX_TOKENS
        tool_choice = _tool_choice(request)
        thinking = self._thinking(request.effort, limit)
        if _forces(tool_choice) or (self._budgets and _lacks_its_thought(messages)):
            # Each is a 400 together with thoughts.
            thinking = None
        thinks = bool(thinking) and thinking != _NO_THINKING
        optional = {
            "system": instructions or None,
            "cache_control": _mark(request.cache).get("cache_control"),
            # With thoughts the API takes no other temperature than its own.
            "temperature": None if thinks else _at_most_one(sampling.temperature),
            "top_p": None if thinks else sampling.top_p,
            "stop_sequences": list(sampling.stop) or None,
            "tools": [_tool(tool) for tool in request.tools] or None,
            "tool_choice": tool_choice,
            "thinking": thinking,
            "output_config": self._output(request) or None,
        }
        return {
            "model": model,
            "messages": messages,
            "max_tokens": limit,
            "stream": stream,
            **{name: value for name, value in optional.items() if value is not None},
        }

    def _thinking(self, effort: Effort | None, limit: int) -> dict[str, Any] | None:
        if effort is None:
            return None
        if effort == "none":
            return _NO_THINKING
        if not self._budgets:
            return {"type": "adaptive"}
        # The answer itself needs room below the bound too, and a budget has a least size.
        budget = min(BUDGETS[effort], limit * 3 // 4)
        return {"type": "enabled", "budget_tokens": budget} if budget >= LEAST_BUDGET else None

    def _output(self, request: Request) -> dict[str, Any]:
        out: dict[str, Any] = {}
        if request.effort not in (None, "none") and not self._budgets:
            out["effort"] = "low" if request.effort == "minimal" else request.effort
        if (schema := _schema(request)) is not None and is_finite(schema):
            out["format"] = {"type": "json_schema", "schema": reduced(schema)}
        return out

    def completion(self, body: Mapping[str, Any], *, model: str) -> Completion:
        if not isinstance(body.get("content"), list):
            raise UpstreamError(f"Model '{model}' sent a reply without an answer in it.")
        return _completion(body, loose.mappings(body["content"]), model)

    def deltas(self, model: str) -> AnthropicDeltas:
        return AnthropicDeltas(model)


_NO_THINKING = {"type": "disabled"}


def _at_most_one(temperature: float | None) -> float | None:
    return None if temperature is None else min(temperature, 1.0)


# What goes out


def _conversation(
    request: Request,
) -> tuple[str | list[dict[str, Any]], list[dict[str, Any]]]:
    """The leading instructions, and the turns: neighbours of one role make one turn."""
    leading: list[Message] = []
    turns: list[dict[str, Any]] = []
    for message in request.messages:
        if message.role in ("system", "developer") and not turns:
            leading.append(message)
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = list(_blocks(message))
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    for turn in turns:
        # Results come first in the turn after their calls. The sort keeps all other order.
        turn["content"].sort(key=lambda block: block["type"] != "tool_result")
    if (shape := _in_words(request)) is not None:
        leading.append(system(shape))
    return _instructions(leading), turns


def _schema(request: Request) -> Mapping[str, Any] | None:
    wanted = request.response_format
    return wanted.schema if wanted is not None and wanted.kind == "json_schema" else None


def _in_words(request: Request) -> str | None:
    """The shape of the answer, where the API has no way to be held to it."""
    if request.response_format is None or request.response_format.kind == "text":
        return None
    schema = _schema(request)
    if not schema:
        return _JSON_ONLY
    if is_finite(schema):
        return None
    return f"{_JSON_ONLY} It must be valid by this JSON schema:\n{json.dumps(dict(schema))}"


def _lacks_its_thought(turns: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last answer called tools and does not begin with what was thought before."""
    answers = (turn["content"] for turn in reversed(turns) if turn["role"] == "assistant")
    kinds = [block["type"] for block in next(answers, ())]
    return "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking")


def _instructions(leading: Sequence[Message]) -> str | list[dict[str, Any]]:
    """One text, or, where the cache is to keep a part of it, one block for each part."""
    texts = [part for one in leading for part in one.content if isinstance(part, Text)]
    if any(part.cache for part in texts):
        return [_part(part) for part in texts if part.text.strip()]
    return "\n\n".join(text for one in leading if (text := one.text).strip())


def _blocks(message: Message) -> Iterator[dict[str, Any]]:
    # A text of nothing, or of nothing but white space, is an error there.
    said = [
        _part(part) for part in message.content if not isinstance(part, Text) or part.text.strip()
    ]
    if message.role == "tool":
        result = {
            "type": "tool_result",
            "tool_use_id": _tool_id(message.tool_call_id or ""),
            "content": said,
        }
        yield result | ({"is_error": True} if message.is_error else {}) | _mark(message.cache)
        return
    if message.role == "assistant":
        for thought in message.reasoning:
            yield from _sealed(thought)
    yield from said
    for place, call in enumerate(message.tool_calls, 1):
        used = {
            "type": "tool_use",
            "id": _tool_id(call.id),
            "name": call.name,
            "input": _arguments(call.arguments),
        }
        yield used | _mark(message.cache if place == len(message.tool_calls) else None)


def _sealed(thought: Reasoning) -> Iterator[dict[str, Any]]:
    """A thought goes back only under its seal; one that another provider sealed is not sent."""
    if thought.redacted is not None:
        yield {"type": "redacted_thinking", "data": thought.redacted}
    elif thought.signature and not thought.signature.startswith(OPENAI_SEAL + ":"):
        yield {"type": "thinking", "thinking": thought.text, "signature": thought.signature}


def _part(part: Text | Image) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text} | _mark(part.cache)
    source = {"type": "url", "url": part.url}
    if (inline := re.match(r"data:([\w.+-]+/[\w.+-]+);base64,", part.url)) is not None:
        data = part.url[inline.end() :]
        source = {"type": "base64", "media_type": inline[1], "data": data}
    return {"type": "image", "source": source} | _mark(part.cache)


def _mark(cache: Cache | None) -> dict[str, Any]:
    if cache is None:
        return {}
    return {"cache_control": {"type": "ephemeral", "ttl": cache}}


def _tool_id(identity: str) -> str:
    """Other providers' ids may hold characters that are refused here."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", identity)


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = text
    # Here they must be an object; what a model wrote badly is kept for it to see.
    return value if isinstance(value, dict) else {"arguments": value}


def _tool(tool: Tool) -> dict[str, Any]:
    schema = {"type": "object", **tool.parameters}
    strict = tool.strict and is_finite(schema)
    out: dict[str, Any] = {
        "name": tool.name,
        "input_schema": reduced(schema) if strict else schema,
    }
    if tool.description:
        out["description"] = tool.description
    if strict is not None:
        out["strict"] = strict
    return out | _mark(tool.cache)


def _tool_choice(request: Request) -> dict[str, Any] | None:
    if not request.tools:
        return None
    one_at_a_time = request.parallel_tool_calls is False
    mode = request.tool_choice or ("auto" if one_at_a_time else None)
    if mode is None:
        return None
    choice: dict[str, Any]
    if isinstance(mode, Named):
        choice = {"type": "tool", "name": mode.name}
    else:
        choice = {"type": "any" if mode == "required" else mode}
    if one_at_a_time and mode != "none":
        choice["disable_parallel_tool_use"] = True
    return choice


def _forces(choice: Mapping[str, Any] | None) -> bool:
    return choice is not None and choice["type"] in ("any", "tool")


# What comes back


def _completion(
    message: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]], model: str
) -> Completion:
    content: list[Text] = []
    thoughts: list[Reasoning] = []
    calls: list[ToolCall] = []
    for block in blocks:
        match block.get("type"):
            case "text" if said := loose.text(block.get("text")):
                content.append(Text(said))
            case "thinking":
                seal = loose.text(block.get("signature")) or None
                thoughts.append(Reasoning(loose.text(block.get("thinking")), seal))
            case "redacted_thinking":
                thoughts.append(Reasoning(redacted=loose.text(block.get("data"))))
            case "tool_use":
                calls.append(_call(block, len(calls)))
    reason = loose.text(message.get("stop_reason"))
    return Completion(
        model=model,
        message=Message(
            "assistant", tuple(content), tool_calls=tuple(calls), reasoning=tuple(thoughts)
        ),
        finish_reason=_FINISH.get(reason, "tool_calls" if calls else "stop"),
        usage=_usage(message.get("usage")),
        stop_sequence=loose.text(message.get("stop_sequence")) or None,
        request_id=loose.text(message.get("id"))[:100] or None,
    )


def _call(block: Mapping[str, Any], index: int) -> ToolCall:
    given = block.get("input")
    return ToolCall(
        id=loose.text(block.get("id")) or f"call_{index}",
        name=loose.text(block.get("name")),
        # Streamed, they have been put together as text.
        arguments=given if isinstance(given, str) else json.dumps(given or {}, ensure_ascii=False),
    )


def _usage(raw: Any) -> Usage:
    """Here `input_tokens` are only those that no cache had to do with."""
    raw = loose.mapping(raw)
    cached = loose.count(raw.get("cache_read_input_tokens"))
    cache_written = loose.count(raw.get("cache_creation_input_tokens"))
    details = loose.mapping(raw.get("output_tokens_details"))
    return wire.tally(
        loose.count(raw.get("input_tokens")) + cached + cache_written,
        raw.get("output_tokens"),
        cached=cached,
        cache_written=cache_written,
        reasoning=details.get("thinking_tokens"),
    )


@dataclass(slots=True)
class AnthropicDeltas:
    """Turns the events of one streamed message into ours, and in the end into the whole."""

    model: str
    ended: bool = False
    _message: dict[str, Any] = field(default_factory=dict)
    _usage: dict[str, Any] = field(default_factory=dict)
    #: Blocks by their index, their pieces joined.
    _blocks: dict[int, dict[str, Any]] = field(default_factory=dict)
    _calls: dict[int, int] = field(default_factory=dict)

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        index = loose.count(chunk.get("index"))
        match chunk.get("type"):
            case "message_start":
                self._message.update(loose.mapping(chunk.get("message")))
                self._count(self._message.get("usage"))
            case "content_block_start":
                yield from self._begun(index, dict(loose.mapping(chunk.get("content_block"))))
            case "content_block_delta":
                yield from self._piece(index, loose.mapping(chunk.get("delta")))
            case "content_block_stop":
                if seal := loose.text(self._blocks.get(index, {}).get("signature")):
                    yield ReasoningDelta(signature=seal)
            case "message_delta":
                self._message.update(loose.mapping(chunk.get("delta")))
                self._count(chunk.get("usage"))
            case "message_stop":
                self.ended = True

    def _count(self, usage: Any) -> None:
        """Later counts stand for the whole so far; a null says nothing new."""
        self._usage.update({k: v for k, v in loose.mapping(usage).items() if v is not None})

    def _begun(self, index: int, block: dict[str, Any]) -> Iterator[Event]:
        self._blocks[index] = block
        if block.get("type") == "tool_use":
            place = self._calls[index] = len(self._calls)
            call = _call(block, place)
            # The pieces to come are all of the input; what stands here is an empty object.
            block["input"] = "" if call.arguments == "{}" else call.arguments
            yield ToolCallDelta(place, block["input"], id=call.id, name=call.name)
        elif text := loose.text(block.get("text")):
            yield TextDelta(text)
        elif thought := loose.text(block.get("thinking")):
            yield ReasoningDelta(thought)
        elif block.get("type") == "redacted_thinking":
            yield ReasoningDelta(redacted=loose.text(block.get("data")))

    def _piece(self, index: int, delta: Mapping[str, Any]) -> Iterator[Event]:
        # A block that was never begun begins with its first piece.
        text, thought = loose.text(delta.get("text")), loose.text(delta.get("thinking"))
        default = {"type": "thinking" if thought or "signature" in delta else "text"}
        block = self._blocks.setdefault(index, default)
        if text:
            block["text"] = loose.text(block.get("text")) + text
            yield TextDelta(text)
        if thought:
            block["thinking"] = loose.text(block.get("thinking")) + thought
            yield ReasoningDelta(thought)
        if seal := loose.text(delta.get("signature")):
            block["signature"] = loose.text(block.get("signature")) + seal
        if (piece := loose.text(delta.get("partial_json"))) and index in self._calls:
            block["input"] += piece
            yield ToolCallDelta(self._calls[index], piece)

    def done(self) -> Done:
        if not (self.ended or self._message.get("stop_reason")):
            raise UpstreamError(f"The stream of model '{self.model}' broke off before its end.")
        blocks = [block for _, block in sorted(self._blocks.items())]
        for index in self._calls:
            self._blocks[index]["input"] = self._blocks[index]["input"] or "{}"
        return Done(_completion({**self._message, "usage": self._usage}, blocks, self.model))
