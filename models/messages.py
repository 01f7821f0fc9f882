"""The one message type. Dialects are translated to it and from it at the door, nowhere else.

Everything here is a frozen value that pickles, so that it may cross from one process to
another. Token counts are integers; money is an integer of nano-dollars (10⁻⁹ USD).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import field
from functools import cached_property
from typing import Any, Literal

from models.values import value

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
ToolMode = Literal["auto", "none", "required"]
#: How long a provider is asked to keep what it has read up to a mark. Changes no answer.
Cache = Literal["5m", "1h"]
StageRole = Literal[
    "answer", "panelist", "judge", "synthesis", "reduction", "tool", "plan", "subtask"
]


@value(slots=True)
class Text:
    text: str
    cache: Cache | None = None


@value(slots=True)
class Image:
    """An image by address: `https:` or `data:` URL."""

    url: str
    detail: str | None = None
    cache: Cache | None = None


@value(slots=True)
class Reasoning:
    """What a model thought before it answered, kept apart from the answer.

    `signature` is the provider's seal, which it wants back with the text; `redacted` is a
    thought that the provider shows only to itself.
    """

    text: str = ""
    signature: str | None = None
    redacted: str | None = None

    @property
    def is_open(self) -> bool:
        """It has no seal."""
        return self.signature is None and self.redacted is None


@value(slots=True)
class Source:
    """Where something in an answer comes from."""

    url: str
    title: str = ""


@value(slots=True)
class ToolCall:
    """A call that the model asks for. `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@value(slots=True)
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
    #: A mark behind the result of a tool, or behind calls.
    cache: Cache | None = None

    @property
    def text(self) -> str:
        """All text parts joined."""
        if len(self.content) == 1 and isinstance(one := self.content[0], Text):
            return one.text
        return "".join(part.text for part in self.content if isinstance(part, Text))

    @property
    def thought(self) -> str:
        """All that the model thought before, joined."""
        if not self.reasoning:
            return ""
        return "".join(part.text for part in self.reasoning)


def system(text: str) -> Message:
    return Message("system", (Text(text),))


def user(text: str) -> Message:
    return Message("user", (Text(text),))


def assistant(text: str) -> Message:
    return Message("assistant", (Text(text),))


#: The fusion as a tool among others: how a request chooses it, and what the outer model calls.
FUSION_TOOL = "openrouter:fusion"
#: The same as a function that a model may call: their names have no colon.
FUSION_FUNCTION = "openrouter_fusion"
#: Where a fusion ran within an answer. What it found is the answer's `extension`.
FUSED = Message("tool", name=FUSION_FUNCTION)


@value(slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool | None = None
    cache: Cache | None = None


@value(slots=True)
class Named:
    """The choice of one tool by its name. A tool may be called `auto`; a mode is a plain text."""

    name: str


ToolChoice = ToolMode | Named


@value(slots=True)
class ServerTool:
    """A tool that this server runs itself (`web_search`, `web_fetch`, ...), with its settings."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@value()
class ResponseFormat:
    """What shape the answer must have: free JSON, or JSON after `schema`."""

    kind: Literal["text", "json_object", "json_schema"] = "text"
    name: str = "answer"
    schema: Mapping[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None

    @cached_property
    def schema_characters(self) -> int:
        """The length of the schema as JSON, counted once: some formats are asked for all day."""
        return 0 if self.schema is None else len(json.dumps(dict(self.schema)))


@value()
class Sampling:
    """How to sample. `None` leaves the choice to the model's own default."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    #: Ask how likely the tokens of the answer were. Who cannot tell is not asked.
    logprobs: bool = False


@value(slots=True)
class FusionOptions:
    """What a request says about a fusion, by the Fusion contract. None: the panel's default.

    `entry` is how it was asked for: by a plugin, or as a tool that the outer model may call (a
    request that only names an alias or a panel has no options at all). Ranges are checked at the
    door; whether the names exist is for whoever knows the catalog.
    """

    entry: Literal["plugin", "tool"] = "plugin"
    #: False: a plugin that is switched off for this request.
    enabled: bool = True
    #: A panel of the catalog. `analysis_models` and `judge` win over it.
    preset: str | None = None
    #: 1 to 8 models, duplicates allowed. Empty: the preset's.
    analysis_models: tuple[str, ...] = ()
    #: The contract's `model`. With a plugin it also writes the answer.
    judge: str | None = None
    #: 1 to 16, for each panelist and the judge. None: 4.
    max_tool_calls: int | None = None
    #: At most 8. None: the panel's. Empty: no tools.
    tools: tuple[ServerTool, ...] | None = None
    #: Of each inner call. None: 16000.
    max_completion_tokens: int | None = None
    #: Of the panel; the judge always runs at 0.
    temperature: float | None = None
    effort: Effort | None = None
    #: How long a provider may keep the inner calls' prompts in its cache.
    cache_ttl: Cache | None = None


@value(slots=True)
class PlanOptions:
    """What a request for a plan brings along: a graph of its own (JSON, see `serve.plans.graph`),
    or the id of a plan to go on with."""

    graph: Mapping[str, Any] | None = None
    resume: str | None = None


@value(slots=True)
class RouteOptions:
    """What a request to `fusion/auto` says about who should answer. None: the catalog's default.

    quality: 0 as cheap as can be to 1 as good as can be. max_usd: dollars for the whole answer.
    flagship_share: part of all tokens, over the last requests, that flagships should write.
    kind: of subtask, one of the catalog's `roles.subtasks`.
    """

    quality: float | None = None
    max_usd: float | None = None
    flagship_share: float | None = None
    kind: str | None = None


@value()
class Request:
    """What is asked, of whom, in no vendor's form."""

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    tools: tuple[Tool, ...] = ()
    #: A mode or one tool, which may be `FUSION_TOOL`. None: not said.
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    #: How much a model that reasons shall think first. None: its own default.
    effort: Effort | None = None
    #: A mark behind the whole prompt.
    cache: Cache | None = None
    fusion: FusionOptions | None = None
    plan: PlanOptions | None = None
    route: RouteOptions | None = None


@value(slots=True)
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
        return total((self, other))


def total(usages: Iterable[Usage]) -> Usage:
    """All of them together."""
    entered = written = cached = reasoning = cache_written = 0
    for one in usages:
        entered += one.input
        written += one.output
        cached += one.cached
        reasoning += one.reasoning
        cache_written += one.cache_written
    return Usage(entered, written, cached, reasoning, cache_written)


@value()
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


@value()
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
    #: Mean logarithm of the probability of its tokens, 0 or less, of a whole answer that was
    #: asked for it by a model that can tell.
    logprob: float | None = None
    #: Where a fusion stands behind it, how it came about: what was thought and said, in order, and
    #: `FUSED` in the place of the fusion. `message` has all of it joined.
    turns: tuple[Message, ...] = ()

    @property
    def text(self) -> str:
        return self.message.text

    @property
    def course(self) -> tuple[Message, ...]:
        """Its turns, or its only one. An answer that was kept by a version without turns has its
        fusion before it."""
        if self.turns:
            return self.turns
        fused = any(key in self.extension for key in ("analysis", "responses", "failed_models"))
        return (FUSED, self.message) if fused else (self.message,)


@value(slots=True)
class TextDelta:
    text: str


@value(slots=True)
class ReasoningDelta:
    """A piece of a thought. A `signature` seals the thought that the pieces before it made;
    `redacted` is a thought by itself (see `Reasoning`)."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None


@value(slots=True)
class ToolCallDelta:
    """A piece of the `index`-th tool call. `id` and `name` come with its first piece."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@value(slots=True)
class Progress:
    """Something happened on the way that is not part of the answer (JSON in `data`)."""

    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)


@value(slots=True)
class Done:
    """Last event of every stream that ends well. Its completion carries the whole answer."""

    completion: Completion


Event = TextDelta | ReasoningDelta | ToolCallDelta | Progress | Done
