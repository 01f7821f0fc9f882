"""A message's request: Anthropic's JSON to our messages. Pure.

What would change the answer and is not supported is refused by name, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from models.errors import BadRequest, Unsupported
from models.messages import (
    Effort,
    Message,
    Named,
    Request,
    ResponseFormat,
    Sampling,
    Text,
    Tool,
    ToolChoice,
)
from serve.dialects.dialect import Asked
from serve.dialects.entries import chosen
from serve.dialects.extension import Extension
from serve.dialects.messages.blocks import (
    CacheControl,
    TextBlock,
    Turn,
    as_blocks,
    cache_of,
    conversation,
)
from serve.dialects.shape import Listed, Row, Shape, effort_of, read


class _Tool(Shape):
    type: Literal["custom"] | None = None
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None


class _Mode(Shape):
    type: Literal["auto", "any"]
    disable_parallel_tool_use: bool | None = None


class _NoTool(Shape):
    type: Literal["none"]


class _OneTool(Shape):
    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


_Choice = Annotated[_Mode | _NoTool | _OneTool, Field(discriminator="type")]
_Display = Literal["summarized", "omitted"] | None


class _Thinks(Shape):
    type: Literal["enabled"]
    budget_tokens: int = Field(ge=1024)
    display: _Display = None


class _ThinksAsItLikes(Shape):
    type: Literal["adaptive"]
    display: _Display = None


class _ThinksNot(Shape):
    type: Literal["disabled"]


class _Format(Shape):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class _Output(Shape):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class _Metadata(Shape):
    user_id: str | None = None


class Countable(Shape):
    """What may be counted before it is asked."""

    model: str = Field(min_length=1)
    messages: Listed[Turn] = Field(min_length=1)
    system: Annotated[Listed[TextBlock], BeforeValidator(as_blocks)] = Field(default_factory=list)
    tools: Row[_Tool] | None = Field(None, max_length=128)
    tool_choice: _Choice | None = None
    thinking: (
        Annotated[_Thinks | _ThinksAsItLikes | _ThinksNot, Field(discriminator="type")] | None
    ) = None
    output_config: _Output | None = None
    cache_control: CacheControl | None = None


class Body(Countable):
    max_tokens: int = Field(ge=1)
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    stop_sequences: Row[str] | None = None
    metadata: _Metadata | None = None
    fusion: Extension | None = None
    # Accepted: they do not change the answer.
    service_tier: str | None = None
    # Accepted only where they change nothing.
    top_k: int | None = None
    container: Any = None
    mcp_servers: Any = None
    context_management: Any = None


def parse(raw: bytes) -> Asked:
    """The request in this HTTP body. Raises BadRequest that names the field."""
    body = read(raw, Body)
    _refuse_unsupported(body)
    user = body.metadata.user_id if body.metadata else None
    return Asked(
        request=_request(body),
        stream=bool(body.stream),
        extension=body.fusion or Extension(),
        metadata=(("user_id", user),) if user else (),
    )


def countable(raw: bytes) -> Request:
    """What this HTTP body asks to count. Raises BadRequest that names the field."""
    return _asked(read(raw, Countable))


def _refuse_unsupported(body: Body) -> None:
    hidden = getattr(body.thinking, "display", None) == "omitted"
    refused = {
        "top_k": body.top_k is not None and "use 'top_p'",
        "container": body.container is not None and "code is not run here",
        "mcp_servers": bool(body.mcp_servers) and "servers of tools are not called from here",
        "context_management": body.context_management is not None and "a conversation is never cut",
        "messages": body.messages[-1].role == "assistant"
        and "no answer goes on from words that are put in its mouth; end with a user's turn",
        "thinking.display": hidden and "thoughts are shown or not thought",
    }
    for param, reason in refused.items():
        if reason:
            raise Unsupported(f"Unsupported '{param}': {reason}.", param=param)
    thinking = body.thinking
    if isinstance(thinking, _Thinks) and thinking.budget_tokens >= body.max_tokens:
        raise BadRequest(
            "'thinking.budget_tokens' must be below 'max_tokens'.", param="thinking.budget_tokens"
        )


def _request(body: Body) -> Request:
    sampling = Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        max_tokens=body.max_tokens,
        stop=body.stop_sequences or (),
    )
    return _asked(body, sampling)


def _asked(body: Countable, sampling: Sampling | None = None) -> Request:
    instructions = tuple(Text(block.text, block.cache) for block in body.system if block.text)
    head = (Message("system", instructions),) if instructions else ()
    output = body.output_config.format if body.output_config else None
    return Request(
        model=body.model,
        messages=(*head, *conversation(body.messages)),
        sampling=sampling or Sampling(),
        tools=tuple(
            Tool(
                tool.name,
                tool.description or "",
                tool.input_schema,
                tool.strict,
                cache_of(tool.cache_control),
            )
            for tool in body.tools or ()
        ),
        tool_choice=_tool_choice(body),
        parallel_tool_calls=_parallel(body.tool_choice),
        response_format=ResponseFormat("json_schema", schema=output.schema_) if output else None,
        effort=_effort(body),
        cache=cache_of(body.cache_control),
    )


def _tool_choice(body: Countable) -> ToolChoice | None:
    known = {tool.name for tool in body.tools or ()}
    match body.tool_choice:
        case _OneTool(name=name):
            return chosen(Named(name), known)
        case _Mode(type="any"):
            return chosen("required", known)
        case _Mode(type="auto"):
            return chosen("auto", known)
        case _NoTool():
            return chosen("none", known)
    return None


def _parallel(choice: _Mode | _NoTool | _OneTool | None) -> bool | None:
    said = getattr(choice, "disable_parallel_tool_use", None)
    return None if said is None else not said


def _effort(body: Countable) -> Effort | None:
    """How much to think: by name, by a budget of tokens, or not at all."""
    named = body.output_config.effort if body.output_config else None
    match body.thinking:
        case _Thinks(budget_tokens=budget):
            return effort_of(budget)
        case _ThinksNot():
            return "none"
    return "xhigh" if named == "max" else named
