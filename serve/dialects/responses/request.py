"""A response's request: OpenAI's JSON to our messages. Pure.

What would change the answer and is not supported is refused by name, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from models.errors import BadRequest, Unsupported
from models.messages import (
    Message,
    Named,
    Request,
    ResponseFormat,
    Sampling,
    Tool,
    ToolChoice,
    ToolMode,
    system,
)
from serve.dialects.dialect import Asked
from serve.dialects.entries import FusionChoice, FusionTool, Plugins, chosen, options, runs
from serve.dialects.extension import Extension
from serve.dialects.responses.items import Item, conversation
from serve.dialects.shape import AskedEffort, Listed, Row, Shape, read, refuse_silence


class _Function(Shape):
    type: Literal["function"]
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    # Accepted only at the value that changes nothing.
    defer_loading: Literal[False] | None = None
    allowed_callers: Row[Literal["direct"]] | None = None


class _NamedFunction(Shape):
    type: Literal["function"]
    name: str


_AnyTool = Annotated[_Function | FusionTool, Field(discriminator="type")]
_Choice = Annotated[_NamedFunction | FusionChoice, Field(discriminator="type")]


class _PlainFormat(Shape):
    type: Literal["text", "json_object"]


class _SchemaFormat(Shape):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    type: Literal["json_schema"]
    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class _TextConfig(Shape):
    format: Annotated[_PlainFormat | _SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: str | None = None


class _Reasoning(Shape):
    effort: AskedEffort | None = None
    #: Thoughts come as they are; a summary of them is not made.
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class _StreamOptions(Shape):
    include_obfuscation: bool | None = None


def _items(value: Any) -> Any:
    """A bare text is a user's message."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class Body(Shape):
    model: str = Field(min_length=1)
    input: Annotated[Listed[Item], BeforeValidator(_items), Field(min_length=1)]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_output_tokens: int | None = Field(None, ge=1)
    text: _TextConfig | None = None
    tools: Row[_AnyTool] | None = Field(None, max_length=128)
    tool_choice: ToolMode | _Choice | None = None
    parallel_tool_calls: bool | None = None
    plugins: Plugins | None = None
    reasoning: _Reasoning | None = None
    previous_response_id: str | None = Field(None, min_length=1, max_length=128)
    store: bool | None = None
    fusion: Extension | None = None
    # Accepted: they do not change the answer.
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    #: One fusion a turn is all that a server does by itself.
    max_tool_calls: int | None = Field(None, ge=1)
    include: Row[str] | None = None
    # Accepted only at the value that changes nothing.
    background: bool | None = None
    truncation: str | None = None
    top_logprobs: int | None = None
    conversation: Any = None
    prompt: Any = None


def parse(raw: bytes) -> Asked:
    """The request in this HTTP body. Raises BadRequest that names the field."""
    body = read(raw, Body)
    _refuse_unsupported(body)
    messages = conversation(body.input)
    refuse_silence(messages, "input")
    instructions = (system(body.instructions),) if body.instructions else ()
    return Asked(
        request=_request(body, (*instructions, *messages)),
        stream=bool(body.stream),
        extension=body.fusion or Extension(),
        metadata=tuple((body.metadata or {}).items()),
        previous=(body.previous_response_id or "").removeprefix("resp_") or None,
        store=body.store is not False,
        instructions=len(instructions),
        echo=_echo(body),
    )


def _refuse_unsupported(body: Body) -> None:
    verbosity = body.text.verbosity if body.text else None
    refused = {
        "background": body.background and "an answer is given at once or streamed",
        "truncation": body.truncation not in (None, "disabled")
        and "a conversation is never cut; send a shorter one",
        "top_logprobs": body.top_logprobs and "log probabilities are not available",
        "include": "message.output_text.logprobs" in (body.include or ())
        and "log probabilities are not available",
        "text.verbosity": verbosity not in (None, "medium")
        and "say in the instructions how long the answer shall be",
        "conversation": body.conversation is not None and "send the conversation as 'input'",
        "prompt": body.prompt is not None and "there are no stored prompts; send 'instructions'",
    }
    for param, reason in refused.items():
        if reason:
            raise Unsupported(f"Unsupported '{param}': {reason}.", param=param)
    if body.previous_response_id == "resp_":
        param = "previous_response_id"
        raise BadRequest(f"Invalid '{param}': 'resp_' names no response.", param=param)


def _request(body: Body, messages: tuple[Message, ...]) -> Request:
    return Request(
        model=body.model,
        messages=messages,
        sampling=Sampling(
            temperature=body.temperature, top_p=body.top_p, max_tokens=body.max_output_tokens
        ),
        tools=tuple(
            Tool(
                name=tool.name,
                description=tool.description or "",
                parameters=tool.parameters or {"type": "object", "properties": {}},
                strict=tool.strict,
            )
            for tool in body.tools or ()
            if isinstance(tool, _Function)
        ),
        tool_choice=_tool_choice(body),
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_format(body.text),
        effort=body.reasoning.effort if body.reasoning else None,
        fusion=options(body.plugins, body.tools or ()),
    )


def _tool_choice(body: Body) -> ToolChoice | None:
    known = {tool.name if isinstance(tool, _Function) else tool.type for tool in body.tools or ()}
    match body.tool_choice:
        case _NamedFunction(name=name) | FusionChoice(type=name):
            return chosen(Named(name), known)
        case mode:
            return chosen(mode, known, fused=runs(body.model, body.plugins))


def _format(text: _TextConfig | None) -> ResponseFormat | None:
    match text.format if text else None:
        case _PlainFormat(type="json_object"):
            return ResponseFormat("json_object")
        case _SchemaFormat() as wanted:
            return ResponseFormat(
                "json_schema", wanted.name, wanted.schema_, wanted.strict, wanted.description
            )
    return None


#: What the answer repeats of its request, and what it says where the request did not.
_REPEATED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "user": None,
}


def _echo(body: Body) -> dict[str, Any]:
    said = body.model_dump(
        mode="json", include=set(_REPEATED), exclude_none=True, exclude_unset=True, by_alias=True
    )
    return _REPEATED | said
