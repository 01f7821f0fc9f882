"""The one message type. Dialects are translated to it and from it at the door, nowhere else.

Everything here is a frozen value that pickles, so that it may cross from one process to
another. Token counts are integers; money is an integer of nano-dollars (10⁻⁹ USD).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
StageRole = Literal["answer", "panelist", "judge", "synthesis", "plan", "subtask"]


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image by address: `https:` or `data:` URL."""

    url: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What a model thought before it answered, kept apart from the answer.

    `signature` is the provider's seal, which it wants back with the text; `redacted` is a
    thought that the provider shows only to itself.
    """

    text: str = ""
    signature: str | None = None
    redacted: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where something in an answer comes from."""

    url: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for. `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `tool_call_id` says which call a `tool` message answers."""

    role: Role
    content: tuple[Text | Image, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: tuple[Reasoning, ...] = ()
    #: A `tool` message that reports a failure.
    is_error: bool = False

    @property
    def text(self) -> str:
        """All text parts joined."""
        return "".join(part.text for part in self.content if isinstance(part, Text))

    @property
    def thought(self) -> str:
        """All that the model thought before, joined."""
        return "".join(part.text for part in self.reasoning)


def system(text: str) -> Message:
    return Message("system", (Text(text),))


def user(text: str) -> Message:
    return Message("user", (Text(text),))


def assistant(text: str) -> Message:
    return Message("assistant", (Text(text),))


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What shape the answer must have: free JSON, or JSON after `schema`."""

    kind: Literal["text", "json_object", "json_schema"] = "text"
    name: str = "answer"
    schema: Mapping[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. `None` leaves the choice to the model's own default."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class FusionOptions:
    """What a request says about a fusion, by the Fusion contract. None: the panel's default.

    `entry` is how it was asked for: by a model name, by a plugin, or as a server tool that the
    outer model may call. `tools` are names of server tools; empty disables them.
    """

    entry: Literal["alias", "plugin", "tool"] = "alias"
    enabled: bool = True
    preset: str | None = None
    analysis_models: tuple[str, ...] = ()
    judge: str | None = None
    max_tool_calls: int | None = None
    tools: tuple[str, ...] | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    effort: Effort | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, of whom, in no vendor's form."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    tools: tuple[Tool, ...] = ()
    #: "auto", "none", "required", or the name of one tool. None: not said.
    tool_choice: str | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    #: How much a model that reasons shall think first. None: its own default.
    effort: Effort | None = None
    fusion: FusionOptions | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call or of many.

    `cached` (read from a provider's prompt cache) and `cache_written` are parts of `input`,
    `reasoning` is part of `output`.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    cache_written: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.reasoning + other.reasoning,
            self.cache_written + other.cache_written,
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """What one inner call did and cost. `nano_usd` is None where the model has no price."""

    role: StageRole
    model: str
    usage: Usage = Usage()
    seconds: float = 0.0
    nano_usd: int | None = None
    #: The panelist's name inside its panel, where it has one.
    member: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer. `model` is the concrete model that wrote it, never an alias."""

    model: str
    message: Message
    finish_reason: FinishReason = "stop"
    usage: Usage = Usage()
    stages: tuple[Stage, ...] = ()
    #: What a fusion, a route or a plan wants the caller to see beside the answer (JSON).
    extension: Mapping[str, Any] = field(default_factory=dict)
    #: Pages and documents that the answer rests on.
    sources: tuple[Source, ...] = ()
    #: The text of `stop` that ended the answer, where the model says so.
    stop_sequence: str | None = None
    #: The provider's own id of the call, for its support.
    request_id: str | None = None

    @property
    def text(self) -> str:
        return self.message.text


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of the `index`-th tool call. `id` and `name` come with its first piece."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Something happened on the way that is not part of the answer (JSON in `data`)."""

    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """Last event of every stream that ends well. Its completion carries the whole answer."""

    completion: Completion


Event = TextDelta | ReasoningDelta | ToolCallDelta | Progress | Done
