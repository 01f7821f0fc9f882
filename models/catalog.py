"""The catalog: the models, aliases, panels and roles of one installation, as checked values.

`models.catalog_file` reads one from YAML and reports every problem with its line. Inside the
program a `Catalog` is always valid: nobody checks it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from models import price_table
from models.messages import Sampling
from models.policies import Approvals, PolicySpec
from models.prices import Price, Usd
from models.record import Record
from models.scaling import Fleet, Scaling
from models.tools.settings import Tools
from models.wrappers.profiles import FAMILIES

#: Names that start so belong to the program.
FUSION = "fusion/"
AUTO = "fusion/auto"
PLAN = "fusion/plan"
RESERVED_PANELS = frozenset({"auto", "plan"})
#: Names that OpenRouter's clients send, and the panel that answers each.
CONTRACT_NAMES = {"openrouter/fusion": "default", "openrouter/fusion-flash": "general-fast"}
SUBTASK_KINDS = ("design", "read", "search", "extract", "write", "code", "check", "decide")
MAX_PANEL = 8

_ADDRESS = r"^https?://[^\s?#@]+$"

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
    #: Whether it can call tools by itself.
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
    replicas: Annotated[Replicas, BeforeValidator(_fixed_number)] = Replicas()
    #: Requests that one replica works on at the same time; Serve scales on half of it.
    max_ongoing: int = Field(32, ge=1, le=4096)
    #: Requests that may wait, for each gateway; one more is answered with 429.
    max_queued: int = Field(256, ge=0, le=100_000)
    #: CPUs that one replica reserves from Ray (0 is allowed: placement only).
    cpus: float = Field(1.0, ge=0)
    env: dict[str, str] = Field(default_factory=dict)
    #: How it is scaled. Default: by the requests under way, by Serve's own rule.
    scaling: Scaling | None = None
    #: US dollars that an hour of one replica costs, busy or not.
    usd_per_hour: Usd | None = None


class VllmModel(Hosted):
    """An open-weight model under vLLM."""

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
    base_url: str = Field(pattern=_ADDRESS)
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
    base_url: str = Field("https://api.openai.com/v1", pattern=_ADDRESS)


class OpenAIResponsesModel(ApiModel):
    """An API that speaks OpenAI's responses."""

    engine: Literal["openai-responses"]
    base_url: str = Field("https://api.openai.com/v1", pattern=_ADDRESS)
    #: Whether to ask for summaries of what it thinks. OpenAI wants a verified organization for it.
    summaries: bool = False


class AnthropicModel(ApiModel):
    """An API that speaks Anthropic's messages."""

    engine: Literal["anthropic"]
    base_url: str = Field("https://api.anthropic.com/v1", pattern=_ADDRESS)
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


def _bare_name(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class Member(Record):
    """One panelist: a model with its own sampling and persona."""

    model: Name
    #: An instruction put behind the conversation, to make this panelist look elsewhere.
    persona: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class Panel(Record):
    """The models that answer one prompt in parallel, and who judges and writes."""

    members: tuple[Annotated[Member, BeforeValidator(_bare_name)], ...] = Field(
        min_length=1, max_length=MAX_PANEL
    )
    #: Who may take the place of a member that fails, in this order.
    candidates: tuple[Annotated[Member, BeforeValidator(_bare_name)], ...] = Field(
        (), max_length=MAX_PANEL
    )
    #: One member fused with itself: it stands in so many places.
    self: int = Field(1, ge=1, le=MAX_PANEL)
    #: How often the panel answers; from the second time on each member sees all answers.
    layers: int = Field(1, ge=1, le=4)
    #: How the final answer comes about. `judge_only` is the baseline: the judge by itself.
    answer: Literal["synthesis", "best_of", "judge_only"] = "synthesis"
    #: Default: `roles.judge`.
    judge: Name | None = None
    #: Default: the panel's judge, as in the Fusion contract.
    synthesis: Name | None = None
    #: Longest analysis of the judge, in tokens.
    analysis_tokens: int = Field(1024, ge=128)
    timeout_s: float = Field(300.0, gt=0)
    #: So many answers are enough. Default: two thirds of the places, rounded up.
    quorum: int | None = Field(None, ge=1, le=MAX_PANEL)
    #: How long the rest is waited for when enough answers are in.
    grace_s: float = Field(60.0, ge=0)
    #: The most that one answer of this panel may cost. A request may set a lower cap.
    cost_cap_usd: Decimal | None = Field(None, gt=0, le=1_000_000, decimal_places=9)
    #: Names of server tools for panelists and judge. Default: all that are configured.
    tools: tuple[str, ...] | None = Field(None, max_length=8)
    #: Tool calls of each panelist and of the judge.
    max_tool_calls: int = Field(4, ge=1, le=16)

    @model_validator(mode="after")
    def _alone_with_itself(self) -> Panel:
        if self.self > 1 and len(self.members) > 1:
            raise ValueError("'self' fuses one member with itself and 'members' has several")
        if self.quorum is not None and self.quorum > len(self.places):
            raise ValueError(f"quorum ({self.quorum}) is above the places ({len(self.places)})")
        return self

    @property
    def places(self) -> tuple[Member, ...]:
        """Who answers, in order."""
        return self.members * self.self

    @property
    def member_names(self) -> tuple[str, ...]:
        """Each place's name, and then each candidate's: see `numbered`."""
        return numbered(member.model for member in (*self.places, *self.candidates))


def numbered(models: Iterable[str]) -> tuple[str, ...]:
    """These names, with `model#2` for a second place of the same model."""
    seen: dict[str, int] = {}
    names = []
    for model in models:
        seen[model] = count = seen.get(model, 0) + 1
        names.append(model if count == 1 else f"{model}#{count}")
    return tuple(names)


class Subtasks(Record):
    """Who does each kind of subtask: a model, an alias, `fusion/<panel>`, or `fusion/auto`."""

    design: Name = AUTO
    read: Name = AUTO
    search: Name = AUTO
    extract: Name = AUTO
    write: Name = AUTO
    code: Name = AUTO
    check: Name = AUTO
    decide: Name = AUTO


class Roles(Record):
    """Who serves the parts of a complex answer."""

    judge: Name
    #: Default: the judge.
    synthesis: Name | None = None
    #: Default: the judge.
    plan: Name | None = None
    #: Shortens what is longer than a judge or a writer can read. Default: the first workforce
    #: model, else the judge.
    reduce: Name | None = None
    subtasks: Subtasks = Subtasks()


class Acquaintance(Record):
    """What the router is told about a model that it has not yet seen at work here."""

    #: A model of the router's training data that it is, or is much like.
    known_as: str | None = None
    #: 0 the weakest to 1 the strongest model thinkable. Default: by its price.
    strength: float | None = Field(None, ge=0, le=1)


class RouterRules(Record):
    """How `fusion/auto` chooses, where the request does not say."""

    #: 0 as cheap as can be to 1 as good as can be.
    quality: float = Field(0.5, ge=0, le=1)
    #: US dollars that one answer may cost.
    max_usd: float | None = Field(None, gt=0, le=1000)
    #: Part of all tokens that flagships should write; with it `quality` decides nothing.
    flagship_share: float | None = Field(None, ge=0, le=1)
    #: How a cheap answer is looked at before it is given. Empty: no cascades.
    verify: tuple[Literal["checker", "agreement", "judge"], ...] = ("checker", "agreement")
    #: Panels that may be chosen.
    panels: tuple[Name, ...] = ()
    #: Part of requests that try another model than the best, to learn.
    explore: float = Field(0.02, ge=0, le=0.5)
    #: US dollars that these may cost a day more than the best choice.
    explore_usd_per_day: float = Field(0.1, ge=0, le=10_000)
    #: What `fusion router train` wrote. Read when the cluster starts. Default: what ships.
    weights: str | None = None
    models: dict[Name, Acquaintance] = Field(default_factory=dict)


#: Without a password: catalogs are shown and kept. Drivers take it from PGPASSWORD or ~/.pgpass.
_STORE = r"^(sqlite:////\S+|postgresql://([^\s:@/]+@)?[^\s:@/]+(:\d+)?/[^\s/?]+)$"


class Server(Record):
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    #: Gateway replicas.
    gateways: int = Field(1, ge=1, le=64)
    #: Judge replicas. A judge waits for its model and hardly computes: one serves many requests.
    judges: Annotated[Replicas, BeforeValidator(_fixed_number)] = Replicas()
    #: Requests that one gateway works on at the same time.
    max_concurrent: int = Field(1024, ge=1)
    #: Deadline of a request that does not set one.
    request_timeout_s: float = Field(600.0, gt=0)
    max_body_mb: float = Field(8.0, gt=0, le=512)
    #: Machines that run gateways. More than one need a store that all of them reach.
    nodes: int = Field(1, ge=1, le=1000)
    #: How long the whole record of a fusion is kept, the conversation in it; 0 keeps none.
    fusion_days: float = Field(30.0, ge=0, le=3650)
    #: Where what outlives a process is kept, as a URL. Default: a SQLite file on this machine.
    store: str | None = Field(None, pattern=_STORE)

    @model_validator(mode="after")
    def _reached_by_all(self) -> Server:
        if self.nodes > 1 and not (self.store or "").startswith("postgresql"):
            raise ValueError(
                f"a store in a file serves one machine, and nodes is {self.nodes}: "
                "set server.store to postgresql://USER@HOST/NAME"
            )
        return self


class Budget(Record):
    """The most that an account may spend, in US dollars. Days and months are UTC."""

    total: Usd | None = None
    day: Usd | None = None
    month: Usd | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Budget:
        if (self.total, self.day, self.month) == (None, None, None):
            raise ValueError("it limits nothing: give total, day or month")
        return self


#: An account, or all accounts of a kind: `all`, `project:default`, `key:*`, `tier:flagship`.
AccountName = Annotated[
    str,
    Field(
        pattern=r"^(all|tier:(workforce|flagship|\*)|part:(brain|work|\*)"
        r"|(project|key|session|job|model):\S{1,200})$"
    ),
]


@dataclass(frozen=True, slots=True)
class Target:
    """What a name stands for in the end."""

    kind: Literal["model", "panel", "auto", "plan"]
    name: str


def _with_known_price(name: str, spec: ModelSpec) -> ModelSpec:
    if spec.price is not None or not isinstance(spec, ApiModel):
        return spec
    found = price_table.known(spec.base_url, spec.upstream or name)
    return spec if found is None else spec.model_copy(update={"price": found})


class Catalog(Record):
    """Everything that one installation knows."""

    server: Server = Server()
    models: dict[Name, ModelSpec] = Field(min_length=1)
    aliases: dict[Name, Name] = Field(default_factory=dict)
    panels: dict[Name, Panel] = Field(default_factory=dict)
    roles: Roles
    tools: Tools = Tools()
    router: RouterRules = RouterRules()
    #: What may be spent, by account. An account's own limit comes before that of its kind.
    limits: dict[AccountName, Budget] = Field(default_factory=dict)
    #: What the replicas of all scaled models may cost together.
    fleet: Fleet = Fleet()
    policies: dict[Name, PolicySpec] = Field(default_factory=dict)
    approvals: Approvals = Approvals()

    @field_validator("models")
    @classmethod
    def _priced(cls, models: dict[Name, ModelSpec]) -> dict[Name, ModelSpec]:
        """Well-known models have the price of `models.price_table` where none is given."""
        return {name: _with_known_price(name, spec) for name, spec in models.items()}

    @model_validator(mode="after")
    def _fleet_pays(self) -> Catalog:
        """Refuse a budget that can never pay for one replica of some model, or for all minima."""
        limit = self.fleet.usd_per_hour
        if limit is None:
            return self
        minima = 0.0
        for name, spec in self.models.items():
            if not isinstance(spec, Hosted) or spec.scaling is None:
                continue
            price = spec.scaling.node.usd_per_hour
            minima += spec.replicas.min * price
            if price > limit:
                raise ValueError(
                    f"fleet.usd_per_hour ({limit:g}) does not pay for one replica of '{name}', "
                    f"which costs {price:g}"
                )
        if minima > limit:
            raise ValueError(
                f"the models' replicas.min cost {minima:g} dollars an hour, and "
                f"fleet.usd_per_hour is {limit:g}"
            )
        return self

    def resolve(self, name: str) -> Target | None:
        """Follow aliases to the end. None if nothing here has that name."""
        for _ in range(len(self.aliases) + 1):
            if name in self.models:
                return Target("model", name)
            if name in self.aliases:
                name = self.aliases[name]
                continue
            return self._own_name(name)
        return None

    def _own_name(self, name: str) -> Target | None:
        if name == AUTO:
            return Target("auto", "auto")
        if name == PLAN:
            return Target("plan", "plan")
        panel = CONTRACT_NAMES.get(name) or name.removeprefix(FUSION)
        if panel != name and panel in self.panels:
            return Target("panel", panel)
        return None

    def model_behind(self, name: str) -> str:
        """The concrete model of a name that the catalog's own check knows to be one."""
        target = self.resolve(name)
        if target is None or target.kind != "model":
            raise LookupError(name)
        return target.name

    def judge_of(self, panel: str) -> str:
        """The concrete model that judges this panel."""
        return self.model_behind(self.panels[panel].judge or self.roles.judge)

    def writer_of(self, panel: str) -> str:
        """The concrete model that writes this panel's answer."""
        spec = self.panels[panel]
        return self.model_behind(
            spec.synthesis or spec.judge or self.roles.synthesis or self.roles.judge
        )

    def reducer(self) -> str:
        """The concrete model that shortens what is too long for its reader."""
        if self.roles.reduce is not None:
            return self.model_behind(self.roles.reduce)
        hosted = (name for name, spec in self.models.items() if spec.tier == "workforce")
        return next(hosted, None) or self.model_behind(self.roles.judge)

    def names(self) -> Iterator[tuple[str, Target]]:
        """Every name that a client may send, with what it stands for."""
        for name in (*self.models, *self.aliases):
            if (target := self.resolve(name)) is not None:
                yield name, target
        for panel in self.panels:
            yield FUSION + panel, Target("panel", panel)
        for name, panel in CONTRACT_NAMES.items():
            if panel in self.panels:
                yield name, Target("panel", panel)
        yield AUTO, Target("auto", "auto")
        yield PLAN, Target("plan", "plan")
