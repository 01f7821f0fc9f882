"""A chat completion's request: OpenAI's JSON to our messages. Pure.

What would change the answer and is not supported is refused by name, never ignored. What does not
change it is accepted, and of that only `metadata` is kept.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from models.errors import BadRequest, Unsupported
from models.messages import (
    Image,
    Message,
    Named,
    Reasoning,
    Request,
    ResponseFormat,
    Sampling,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
)
from serve.dialects.dialect import Asked
from serve.dialects.entries import (
    FusionChoice,
    FusionTool,
    Plugins,
    Thinking,
    chosen,
    options,
    runs,
)
from serve.dialects.extension import Extension
from serve.dialects.shape import AskedEffort, Loose, Row, Shape, read, refuse_silence


class _TextPart(Shape):
    type: Literal["text"]
    text: str


class _RefusalPart(Shape):
    type: Literal["refusal"]
    refusal: str


class _ImageUrl(Shape):
    url: str = Field(pattern=r"^(https?://|data:image/)")
    detail: Literal["auto", "low", "high"] | None = None


class _ImagePart(Shape):
    type: Literal["image_url"]
    image_url: _ImageUrl


_Part = Annotated[_TextPart | _RefusalPart | _ImagePart, Field(discriminator="type")]


class _FunctionCall(Loose):
    name: str
    arguments: str


class _ToolCall(Loose):
    id: str
    type: Literal["function"] = "function"
    function: _FunctionCall


class _Message(Loose):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Row[_Part] | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: Row[_ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class _Function(Shape):
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(Shape):
    type: Literal["function"]
    function: _Function


class _NamedFunction(Shape):
    name: str


class _NamedTool(Shape):
    type: Literal["function"]
    function: _NamedFunction


_AnyTool = Annotated[_Tool | FusionTool, Field(discriminator="type")]
_Choice = Annotated[_NamedTool | FusionChoice, Field(discriminator="type")]


class _JsonSchema(Shape):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class _Format(Shape):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _StreamOptions(Shape):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Body(Shape):
    model: str = Field(min_length=1)
    messages: Row[_Message] = Field(min_length=1)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | Row[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    response_format: _Format | None = None
    tools: Row[_AnyTool] | None = Field(None, max_length=128)
    tool_choice: ToolMode | _Choice | None = None
    plugins: Plugins | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: AskedEffort | None = None
    #: OpenRouter's form of the same.
    reasoning: Thinking | None = None
    fusion: Extension | None = None
    # Accepted: they do not change the answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    # Accepted only at the value that changes nothing.
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    verbosity: str | None = None
    modalities: Row[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    functions: Any = None
    function_call: Any = None


def parse(raw: bytes) -> Asked:
    """The request in this HTTP body. Raises BadRequest that names the field."""
    body = read(raw, Body)
    _refuse_unsupported(body)
    return Asked(
        request=_request(body),
        stream=bool(body.stream),
        extension=body.fusion or Extension(),
        metadata=tuple((body.metadata or {}).items()),
        echo={"usage": bool(body.stream_options and body.stream_options.include_usage)},
    )


def _refuse_unsupported(body: Body) -> None:
    refused = {
        "n": body.n not in (None, 1) and "only n=1 is supported; send the request several times",
        "logprobs": body.logprobs and "log probabilities are not available",
        "top_logprobs": body.top_logprobs and "log probabilities are not available",
        "logit_bias": body.logit_bias and "logit bias is not available",
        "verbosity": body.verbosity not in (None, "medium")
        and "say in a system message how long the answer shall be",
        "modalities": body.modalities not in (None, ("text",)) and "answers are text",
        "audio": body.audio is not None and "answers are text",
        "prediction": body.prediction is not None and "an answer is never guessed beforehand",
        "web_search_options": body.web_search_options is not None
        and "a fusion searches the web; ask for one",
        "functions": body.functions is not None and "use 'tools'",
        "function_call": body.function_call is not None and "use 'tool_choice'",
    }
    for param, reason in refused.items():
        if reason:
            raise Unsupported(f"Unsupported '{param}': {reason}.", param=param)
    if body.reasoning and body.reasoning_effort:
        raise BadRequest("Give 'reasoning' or 'reasoning_effort', not both.", param="reasoning")
    wanted = body.response_format
    if wanted and wanted.type == "json_schema" and wanted.json_schema is None:
        place = "response_format.json_schema"
        raise BadRequest(f"Missing required parameter: '{place}'.", param=place)


def _request(body: Body) -> Request:
    limit = body.max_completion_tokens
    stop = (body.stop,) if isinstance(body.stop, str) else body.stop or ()
    return Request(
        model=body.model,
        messages=_messages(body.messages),
        sampling=Sampling(
            temperature=body.temperature,
            top_p=body.top_p,
            max_tokens=body.max_tokens if limit is None else limit,
            stop=stop,
            seed=body.seed,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
        ),
        tools=tuple(
            Tool(
                name=tool.function.name,
                description=tool.function.description or "",
                parameters=tool.function.parameters or {"type": "object", "properties": {}},
                strict=tool.function.strict,
            )
            for tool in body.tools or ()
            if isinstance(tool, _Tool)
        ),
        tool_choice=_tool_choice(body),
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_format(body.response_format),
        effort=body.reasoning.asked if body.reasoning else body.reasoning_effort,
        fusion=options(body.plugins, body.tools or ()),
    )


def _tool_choice(body: Body) -> ToolChoice | None:
    known = {
        tool.function.name if isinstance(tool, _Tool) else tool.type for tool in body.tools or ()
    }
    match body.tool_choice:
        case _NamedTool(function=function):
            return chosen(Named(function.name), known)
        case FusionChoice(type=name):
            return chosen(Named(name), known)
        case mode:
            return chosen(mode, known, fused=runs(body.model, body.plugins))


def _messages(raw: tuple[_Message, ...]) -> tuple[Message, ...]:
    messages = []
    for index, one in enumerate(raw):
        where = f"messages.{index}"
        if one.role == "tool" and not one.tool_call_id:
            raise BadRequest(
                "A tool message must say which call it answers.", param=f"{where}.tool_call_id"
            )
        if one.content is None and not one.tool_calls and not one.refusal:
            raise BadRequest(f"Message {index} has no content.", param=f"{where}.content")
        messages.append(
            Message(
                role=one.role,
                content=(*_content(one.content), *_content(one.refusal)),
                tool_calls=tuple(
                    ToolCall(call.id, call.function.name, call.function.arguments)
                    for call in one.tool_calls or ()
                ),
                tool_call_id=one.tool_call_id,
                name=one.name,
                reasoning=(Reasoning(one.reasoning_content),) if one.reasoning_content else (),
            )
        )
    refuse_silence(messages, "messages")
    return tuple(messages)


def _content(raw: str | tuple[_Part, ...] | None) -> tuple[Text | Image, ...]:
    if isinstance(raw, str):
        return (Text(raw),) if raw else ()
    return tuple(part for part in map(_part, raw or ()) if part != Text(""))


def _part(part: _TextPart | _RefusalPart | _ImagePart) -> Text | Image:
    match part:
        case _TextPart(text=text) | _RefusalPart(refusal=text):
            return Text(text)
        case _ImagePart(image_url=image):
            return Image(image.url, image.detail)


def _format(raw: _Format | None) -> ResponseFormat | None:
    if raw is None or raw.type == "text":
        return None
    if raw.json_schema is None:
        return ResponseFormat(raw.type)
    schema = raw.json_schema
    return ResponseFormat(raw.type, schema.name, schema.schema_, schema.strict, schema.description)
