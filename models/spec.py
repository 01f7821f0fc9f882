"""A model as the catalog writes it: hosted here, behind a remote API, or a class of the user's."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

import httpx
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from models.prices import Price, Usd
from models.record import Record
from models.scaling import FIRST, Place, Scaling
from models.wrappers.profiles import FAMILIES

_ADDRESS = r"^https?://[^\s?#@]+$"


def _readable(address: str) -> str:
    try:
        host = httpx.URL(address).host
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"cannot be read as an address: {error}") from None
    if not host:
        raise ValueError("names no host")
    return address


#: Where an API is. Read here as its client reads it later, so that a wrong one stops the start.
Address = Annotated[str, Field(pattern=_ADDRESS), AfterValidator(_readable)]

#: What models, aliases, panels and policies are called.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", max_length=128)]


class Replicas(Record):
    """How many replicas of a workforce model may run."""

    #: 0: none while nobody asks. The first to ask waits for a start.
    min: int = Field(1, ge=0, le=1000)
    max: int = Field(1, ge=1, le=1000)

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


def _fixed_number(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return {"min": value, "max": value}
    return value


#: Replicas, or one number for both bounds.
ReplicaCount = Annotated[Replicas, BeforeValidator(_fixed_number)]


def _known_family(family: str) -> str:
    if family not in FAMILIES:
        raise ValueError(f"no such family; known: {', '.join(FAMILIES)}")
    return family


class _Model(Record):
    """What every model has, whoever hosts it."""

    #: Longest prompt plus answer, in tokens.
    context: int = Field(8192, ge=128)
    #: Longest answer, in tokens. Also what is asked for when a request does not say.
    max_output: int = Field(1024, ge=1)
    #: Whether it calls tools. Where `tool_calls` is given it does, unless this says otherwise.
    tools: bool = False
    #: How it calls them: by its API or engine, or in words (`models.wrappers.text_tools`).
    tool_calls: Literal["native", "text"] = "native"
    #: How it is held to JSON: by its API or engine, or in words.
    structured: Literal["native", "words"] = "native"
    #: Its family in `models/wrappers/profiles.yaml`. Default: told by its names.
    family: Annotated[str, AfterValidator(_known_family)] | None = None
    #: Whether it can read images.
    images: bool = False
    price: Price | None = None
    #: The most tokens that one picture counts for, to know beforehand what a call can cost.
    image_tokens: int = Field(16384, ge=0, le=1_000_000)
    #: Models to try in order when this one cannot be reached.
    fallbacks: tuple[Name, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _calls_tools(cls, given: Any) -> Any:
        """Who says how a model calls tools says that it does."""
        if isinstance(given, dict) and "tool_calls" in given:
            return {"tools": True, **given}
        return given

    @model_validator(mode="after")
    def _output_fits(self) -> _Model:
        if self.max_output >= self.context:
            raise ValueError(
                f"max_output ({self.max_output}) must be below context ({self.context})"
            )
        return self


class Hosted(_Model):
    """A workforce model: the cluster hosts it."""

    tier: Literal["workforce"] = "workforce"
    replicas: ReplicaCount = Replicas()
    #: Requests that one replica works on at the same time; Serve scales on half of it.
    max_ongoing: int = Field(32, ge=1, le=4096)
    #: Requests that may wait, for each gateway; one more is answered with 429.
    max_queued: int = Field(256, ge=0, le=100_000)
    #: CPUs that one replica reserves from Ray (0 is allowed: placement only).
    cpus: float = Field(1.0, ge=0)
    env: dict[str, str] = Field(default_factory=dict)
    #: How it is scaled. Default: by the requests under way, by Serve's own rule.
    scaling: Scaling | None = None
    #: US dollars that an hour of one replica costs, busy or not. Default: of `scaling.node`.
    usd_per_hour: Usd | None = None

    def place(self, key: str) -> Place:
        """The place of this key."""
        return next(place for place in self.places if place.key == key)

    @model_validator(mode="after")
    def _one_price(self) -> Hosted:
        if self.usd_per_hour is not None and len(self.places) > 1:
            raise ValueError("usd_per_hour: in each of its places (scaling) it has a price there")
        return self

    @field_validator("cpus")
    @classmethod
    def _counted(cls, cpus: float) -> float:
        if round(cpus, 4) != cpus:
            raise ValueError("Ray counts CPUs in ten-thousandths")
        return cpus

    @property
    def hours(self) -> dict[str, Decimal]:
        """The price of an hour of one replica, by place; empty if it has none."""
        if self.usd_per_hour is not None:
            return {FIRST: self.usd_per_hour}
        places = self.scaling.places() if self.scaling is not None else ()
        return {place.key: Decimal(str(place.usd_per_hour)) for place in places}

    @property
    def places(self) -> tuple[Place, ...]:
        """Where its replicas may run: each is a deployment. The first is always there."""
        if self.scaling is None:
            return (Place(FIRST, float(self.usd_per_hour or 0), {}),)
        return self.scaling.places()


class VllmModel(Hosted):
    """An open-weight model under vLLM."""

    #: It tells how likely its tokens were.
    logprobs: ClassVar[bool] = True

    engine: Literal["vllm"]
    #: `package:NAME` (weights inside a Python package), a folder, or a Hugging Face name.
    source: str = Field(min_length=1)
    #: `cpu`, `gpu`, or the type of GPU as Ray names it (`L4`, `A100`, `H100`, ...).
    accelerator: str = Field("gpu", pattern=r"^[A-Za-z0-9-]+$")
    #: vLLM's own engine arguments, passed as they are.
    engine_args: dict[str, Any] = Field(default_factory=dict)


class FakeModelSpec(Hosted):
    """A model that needs no weights: it repeats what it is told to say. For trying things out."""

    engine: Literal["fake"]
    reply: str = "{question}"
    first_token_s: float = Field(0.0, ge=0)
    token_s: float = Field(0.0, ge=0)
    #: The logarithm of each token's probability, told to who asks. Default: it cannot tell.
    logprob: float | None = Field(None, le=0)

    @property
    def logprobs(self) -> bool:
        return self.logprob is not None


class FlagshipSpec(_Model):
    """A flagship model: what answers is not ours, and has limits of its own."""

    tier: Literal["flagship"] = "flagship"
    #: Calls in flight for this account over the whole cluster.
    max_concurrent: int = Field(64, ge=1)
    #: The account's limits. A provider's headers may lower them; None: only those count.
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    timeout_s: float = Field(120.0, gt=0)


class ApiModel(FlagshipSpec):
    """A flagship model behind a remote API."""

    #: The model's name at the provider. Default: its name here.
    upstream: str | None = None
    #: The environment variable that holds the key. The key itself never stands in the catalog.
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    base_url: Address
    #: Whether it takes temperature and its like. Many models that reason refuse a request that
    #: has them; then they are left out.
    sampling: bool = True
    tools: bool = True
    images: bool = True


class OpenAIModel(ApiModel):
    """An API that speaks OpenAI's chat completions, as most do."""

    engine: Literal["openai"]
    #: Whether what it thought goes back to it. OpenAI itself, which refuses that, never gets it.
    thoughts: bool = True
    #: Whether it tells how likely its tokens were. Asked for where the router doubts its answer.
    logprobs: bool = False
    base_url: Address = "https://api.openai.com/v1"


class OpenAIResponsesModel(ApiModel):
    """An API that speaks OpenAI's responses."""

    engine: Literal["openai-responses"]
    base_url: Address = "https://api.openai.com/v1"
    #: Whether to ask for summaries of what it thinks. OpenAI wants a verified organization for it.
    summaries: bool = False


class AnthropicModel(ApiModel):
    """An API that speaks Anthropic's messages."""

    engine: Literal["anthropic"]
    base_url: Address = "https://api.anthropic.com/v1"
    #: How it is told to think: by an effort, or, before Claude Opus 4.6, by a budget of tokens.
    thinking: Literal["adaptive", "budget"] = "adaptive"


class PythonModel(FlagshipSpec):
    """A class of the user's own: an agent, another library's client, a rule."""

    engine: Literal["python"]
    #: `module:Class`. It has an async complete, an async generator stream, or both.
    target: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")
    #: What the class is made with, as keyword arguments.
    options: dict[str, Any] = Field(default_factory=dict)
    #: The folder of the module. Default: the catalog's. It comes last on the path.
    path: str | None = None


ModelSpec = Annotated[
    VllmModel | FakeModelSpec | OpenAIModel | OpenAIResponsesModel | AnthropicModel | PythonModel,
    Field(discriminator="engine"),
]
