"""The catalog: the models, aliases, panels and roles of one installation, as checked values.

`models.catalog_file` reads one from YAML and reports every problem with its line. Inside the
program a `Catalog` is always valid: nobody checks it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from models import loose, price_table
from models.messages import Request
from models.panel import Panel
from models.policies import Approvals, PolicySpec
from models.prices import Usd
from models.record import Record
from models.scaling import Fleet
from models.spec import ApiModel, Hosted, ModelSpec, Name, ReplicaCount, Replicas
from models.tools.settings import Tools

#: Names that start so belong to the program.
FUSION = "fusion/"
#: The panel of a request that names none.
DEFAULT_PANEL = "default"
AUTO = "fusion/auto"
PLAN = "fusion/plan"
RESERVED_PANELS = frozenset({"auto", "plan"})
#: Names that OpenRouter's clients send, and the panel that answers each.
CONTRACT_NAMES = {"openrouter/fusion": "default", "openrouter/fusion-flash": "general-fast"}
SUBTASK_KINDS = ("design", "read", "search", "extract", "write", "code", "check", "decide")


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


Check = Literal["checker", "confidence", "agreement", "judge"]


class RouterRules(Record):
    """How `fusion/auto` chooses, where the request does not say."""

    #: 0 as cheap as can be to 1 as good as can be.
    quality: float = Field(0.5, ge=0, le=1)
    #: US dollars that one answer may cost.
    max_usd: float | None = Field(None, gt=0, le=1000)
    #: Part of all tokens that flagships should write; with it `quality` decides nothing.
    flagship_share: float | None = Field(None, ge=0, le=1)
    #: How a cheap answer is looked at before it is given. Empty: no cascades.
    verify: tuple[Check, ...] = ("checker", "confidence", "agreement")
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
    judges: ReplicaCount = Replicas()
    #: Requests that one gateway works on at the same time.
    max_concurrent: int = Field(1024, ge=1)
    #: Deadline of a request that does not set one.
    request_timeout_s: float = Field(600.0, gt=0)
    max_body_mb: float = Field(8.0, gt=0, le=512)
    #: Machines that run gateways. More than one need a store that all of them reach.
    nodes: int = Field(1, ge=1, le=1000)
    #: How long the whole record of a fusion is kept, the conversation in it; 0 keeps none.
    fusion_days: float = Field(30.0, ge=0, le=3650)
    #: How long an answer of `/v1/responses` can be gone on from; 0 keeps none.
    response_days: float = Field(30.0, ge=0, le=3650)
    #: Where what outlives a process is kept, as a URL. Default: a SQLite file on this machine.
    store: str | None = Field(None, pattern=_STORE)

    @field_validator("host")
    @classmethod
    def _is_reachable(cls, host: str) -> str:
        if ":" in host:
            raise ValueError("an IPv6 address is not served: give an IPv4 address or a name")
        return host

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
        pattern=r"^(all|tier:(workforce|flagship|tool|\*)|part:(brain|work|\*)"
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
        """Refuse a budget that never pays for an hour of one replica of some model, or of all
        minima."""
        scaled = {
            name: spec
            for name, spec in self.models.items()
            if isinstance(spec, Hosted) and spec.scaling is not None
        }
        dearest = {n: max(p.usd_per_hour for p in spec.places) for n, spec in scaled.items()}
        minima = sum(spec.places[0].usd_per_hour * spec.replicas.min for spec in scaled.values())
        for key in ("usd_per_hour", "usd_per_day"):
            limit = getattr(self.fleet, key)
            if limit is None:
                continue
            for name, price in dearest.items():
                if price > limit:
                    raise ValueError(
                        f"fleet.{key} ({limit:g}) does not pay for one replica of '{name}', "
                        f"which costs {price:g} an hour"
                    )
            if minima > limit + 1e-9:  # a sum of floats
                raise ValueError(
                    f"the models' replicas.min cost {minima:g} dollars an hour, and "
                    f"fleet.{key} is {limit:g}"
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

    def window_of(self, panel: str) -> int:
        """Tokens of the smallest window among a panel's members, its judge and its writer."""
        spec = self.panels[panel]
        members = (self.model_behind(m.model) for m in (*spec.places, *spec.candidates))
        names = (*members, self.judge_of(panel), self.writer_of(panel))
        return min(self.models[name].context for name in names)

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


def names_panel(name: str) -> bool:
    """Whether this name says a panel by itself, so that a fusion runs whatever else is asked."""
    return name in CONTRACT_NAMES or (name.startswith(FUSION) and name not in (AUTO, PLAN))


def asked_names(request: Request) -> tuple[str, ...]:
    """Every name that this request says, the panel that it means by saying none among them."""
    graph = loose.mapping(request.plan.graph if request.plan is not None else None)
    pinned = tuple(
        str(one["model"]) for one in loose.mappings(graph.get("subtasks")) if one.get("model")
    )
    said, options = (request.model, *pinned), request.fusion
    if options is None or not options.enabled:
        return said
    judge = () if options.judge is None else (options.judge,)
    if options.analysis_models:
        return (*said, *options.analysis_models, *judge)
    panel = options.preset or (None if names_panel(request.model) else DEFAULT_PANEL)
    return (*said, *(() if panel is None else (FUSION + panel,)), *judge)
