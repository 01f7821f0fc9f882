"""OpenAI's responses dialect: items in, items out.

Nothing is stored at the provider (`store: false`): the conversation is ours, so what a model
thought comes sealed and goes back with the next request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from models import loose, wire
from models.errors import Unsupported, UpstreamError
from models.flagship.dialect import OPENAI_SEAL
from models.flagship.schema import can_be_strict
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
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    Usage,
)
from models.spec import OpenAIResponsesModel

#: Parts of the names of models that do not reason, which refuse to be asked for sealed thoughts.
_NEVER_REASON = ("gpt-4", "gpt-3.5", "gpt-5-chat", "chat-latest")


class OpenAIResponses:
    """The responses dialect. It has no `stop`, `seed` and penalties: `stop` is refused, because
    the answer would be another; the others, which only nudge a model, are left out."""

    path = "/responses"
    key_headers: Mapping[str, str] = {"Authorization": "Bearer "}
    headers: Mapping[str, str] = {}

    def __init__(self, spec: OpenAIResponsesModel) -> None:
        self._summaries = spec.summaries

    def payload(self, request: Request, *, model: str, stream: bool) -> dict[str, Any]:
        sampling = request.sampling
        if sampling.stop:
            raise Unsupported("OpenAI's responses API knows no 'stop'.", param="stop")
        reasoning = {"effort": request.effort, "summary": "auto" if self._summaries else None}
        reasons = not any(part in model for part in _NEVER_REASON)
        optional = {
            "include": ["reasoning.encrypted_content"] if reasons else None,
            "max_output_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "reasoning": {name: value for name, value in reasoning.items() if value} or None,
            "text": _format(request),
            "tools": [_tool(tool) for tool in request.tools] or None,
            "tool_choice": _tool_choice(request.tool_choice) if request.tools else None,
            "parallel_tool_calls": request.parallel_tool_calls if request.tools else None,
        }
        return {
            "model": model,
            "input": [item for message in request.messages for item in _items(message)],
            "stream": stream,
            "store": False,
            **{name: value for name, value in optional.items() if value is not None},
        }

    def completion(self, body: Mapping[str, Any], *, model: str) -> Completion:
        if not isinstance(body.get("output"), list):
            raise UpstreamError(f"Model '{model}' sent a reply without an answer in it.")
        return _completion(body, loose.mappings(body["output"]), model)

    def deltas(self, model: str) -> ResponsesDeltas:
        return ResponsesDeltas(model)


# What goes out


def _items(message: Message) -> Iterator[dict[str, Any]]:
    """One of our turns as items: what was thought, said and called, each an item of its own."""
    if message.role == "tool":
        output = message.text if not _pictures(message) else _parts(message, "input_text")
        yield {
            "type": "function_call_output",
            "call_id": message.tool_call_id or "",
            "output": output,
        }
        return
    for thought in message.reasoning:
        yield from _sealed(thought)
    spoken = "output_text" if message.role == "assistant" else "input_text"
    if message.content or not message.tool_calls:
        # As plain text where it is nothing else, which every compatible server reads.
        content = _parts(message, spoken) if _pictures(message) else message.text
        yield {"role": message.role, "content": content}
    for call in message.tool_calls:
        yield {
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
        }


def _sealed(thought: Reasoning) -> Iterator[dict[str, Any]]:
    """A thought as its item. One that another provider sealed, or nobody, means nothing here."""
    kind, _, rest = (thought.signature or "").partition(":")
    identity, _, encrypted = rest.partition(":")
    if kind == OPENAI_SEAL and encrypted:
        summary = [{"type": "summary_text", "text": thought.text}] if thought.text else []
        yield {
            "type": "reasoning",
            "id": identity,
            "summary": summary,
            "encrypted_content": encrypted,
        }


def _pictures(message: Message) -> bool:
    return any(isinstance(part, Image) for part in message.content)


def _parts(message: Message, kind: str) -> list[dict[str, Any]]:
    return [
        {"type": kind, "text": part.text}
        if isinstance(part, Text)
        else {"type": "input_image", "image_url": part.url, "detail": part.detail or "auto"}
        for part in message.content
    ]


def _tool(tool: Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
        # Left out it would mean true here, and false in the chat dialect.
        "strict": bool(tool.strict) and can_be_strict(tool.parameters),
    }


def _tool_choice(choice: ToolChoice | None) -> Any:
    return {"type": "function", "name": choice.name} if isinstance(choice, Named) else choice


def _format(request: Request) -> dict[str, Any] | None:
    wanted = request.response_format
    if wanted is None or wanted.kind == "text":
        return None
    if wanted.kind == "json_object":
        return {"format": {"type": "json_object"}}
    schema = {
        "type": "json_schema",
        "name": wanted.name,
        "schema": dict(wanted.schema or {}),
        "description": wanted.description,
        "strict": wanted.strict and can_be_strict(wanted.schema or {}),
    }
    return {"format": {name: value for name, value in schema.items() if value is not None}}


# What comes back


def _completion(
    response: Mapping[str, Any], output: list[Mapping[str, Any]], model: str
) -> Completion:
    """The answer in these items, and in the record of the response around them."""
    if response.get("status") in ("failed", "cancelled"):
        raise wire.error(None, response, model=model)
    content: list[Text] = []
    thoughts: list[Reasoning] = []
    calls: list[ToolCall] = []
    sources: list[Source] = []
    refused = False
    for item in output:
        match item.get("type"):
            case "message":
                for part in loose.mappings(item.get("content")):
                    refused = refused or part.get("type") == "refusal"
                    if said := loose.text(part.get("text") or part.get("refusal")):
                        content.append(Text(said))
                    sources += _sources(part)
            case "reasoning":
                thoughts.append(_thought(item))
            case "function_call":
                calls.append(_call(item, len(calls)))
    return Completion(
        model=model,
        message=Message(
            "assistant", tuple(content), tool_calls=tuple(calls), reasoning=tuple(thoughts)
        ),
        finish_reason=_finish(response, refused, bool(calls)),
        usage=_usage(response.get("usage")),
        sources=tuple(sources),
        request_id=loose.text(response.get("id"))[:100] or None,
    )


def _thought(item: Mapping[str, Any]) -> Reasoning:
    pieces = loose.mappings(item.get("summary")) or loose.mappings(item.get("content"))
    text = "\n\n".join(loose.text(piece.get("text")) for piece in pieces)
    encrypted = item.get("encrypted_content")
    seal = f"{OPENAI_SEAL}:{loose.text(item.get('id'))}:{encrypted}" if encrypted else None
    return Reasoning(text, seal)


def _call(item: Mapping[str, Any], index: int) -> ToolCall:
    return ToolCall(
        id=loose.text(item.get("call_id") or item.get("id")) or f"call_{index}",
        name=loose.text(item.get("name")),
        arguments=loose.text(item.get("arguments")) or "{}",
    )


def _sources(part: Mapping[str, Any]) -> Iterator[Source]:
    for note in loose.mappings(part.get("annotations")):
        if note.get("type") == "url_citation" and note.get("url"):
            yield Source(loose.text(note["url"]), loose.text(note.get("title")))


def _finish(response: Mapping[str, Any], refused: bool, called: bool) -> FinishReason:
    reason = loose.mapping(response.get("incomplete_details")).get("reason")
    if refused or reason == "content_filter":
        return "content_filter"
    if response.get("status") == "incomplete":
        return "length"
    return "tool_calls" if called else "stop"


def _usage(raw: Any) -> Usage:
    raw = loose.mapping(raw)
    read = loose.mapping(raw.get("input_tokens_details"))
    written = loose.mapping(raw.get("output_tokens_details"))
    return wire.tally(
        raw.get("input_tokens"),
        raw.get("output_tokens"),
        cached=read.get("cached_tokens"),
        reasoning=written.get("reasoning_tokens"),
        cache_written=read.get("cache_write_tokens"),
    )


@dataclass(slots=True)
class ResponsesDeltas:
    """Turns the events of one streamed response into ours, and in the end into the whole."""

    model: str
    _final: Mapping[str, Any] | None = None
    #: Items that are complete, for servers whose last event does not repeat them.
    _items: list[Mapping[str, Any]] = field(default_factory=list)
    #: The place of each tool call among the calls, by its place among the items.
    _calls: dict[int, int] = field(default_factory=dict)
    #: Calls whose arguments have begun to come.
    _argued: set[int] = field(default_factory=set)

    @property
    def ended(self) -> bool:
        return self._final is not None

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        """The events in one event. Raises what a failed response says."""
        piece = loose.text(chunk.get("delta")) if isinstance(chunk.get("delta"), str) else ""
        match chunk.get("type"):
            case "response.output_text.delta" | "response.refusal.delta" if piece:
                yield TextDelta(piece)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" if piece:
                yield ReasoningDelta(piece)
            case "response.output_item.added":
                yield from self._begun(chunk)
            case "response.function_call_arguments.delta" if piece:
                place = loose.count(chunk.get("output_index"))
                if place in self._calls:
                    self._argued.add(place)
                    yield ToolCallDelta(self._calls[place], piece)
            case "response.output_item.done":
                yield from self._complete(chunk)
            case "response.completed" | "response.incomplete" | "response.failed":
                self._final = loose.mapping(chunk.get("response"))
                if chunk.get("type") == "response.failed":
                    raise wire.error(None, self._final, model=self.model)

    def _begun(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        item, place = loose.mapping(chunk.get("item")), loose.count(chunk.get("output_index"))
        if item.get("type") == "function_call" and place not in self._calls:
            index = self._calls[place] = len(self._calls)
            call = _call(item, index)
            yield ToolCallDelta(index, id=call.id, name=call.name)

    def _complete(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        item, place = loose.mapping(chunk.get("item")), loose.count(chunk.get("output_index"))
        self._items.append(item)
        if item.get("type") == "reasoning" and (seal := _thought(item).signature):
            yield ReasoningDelta(signature=seal)
        if item.get("type") == "function_call":
            yield from self._begun(chunk)
            if place not in self._argued:
                # Arguments that did not come in pieces.
                index = self._calls[place]
                yield ToolCallDelta(index, _call(item, index).arguments)

    def done(self) -> Done:
        if self._final is None:
            raise UpstreamError(f"The stream of model '{self.model}' broke off before its end.")
        output = loose.mappings(self._final.get("output")) or self._items
        return Done(_completion(self._final, output, self.model))
