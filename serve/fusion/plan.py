"""What one fusion consists of: a panel of the catalog, and what the request says about it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

from models.catalog import AUTO, DEFAULT_PANEL, FUSION, Catalog
from models.errors import BadRequest, ModelNotFound
from models.messages import Effort, FusionOptions, Request, Sampling, ServerTool
from models.panel import MAX_PANEL, Member, Panel, numbered
from models.prices import NANO_PER_USD
from models.spec import ModelSpec
from models.values import changed
from serve.fusion.engine import Prices, Terms
from serve.money import bound

#: What a token of an answer is in bytes, at most where it is text.
_BYTES_A_TOKEN = 6
#: The bytes of our own words in a prompt, the judge's schema included.
_INSTRUCTIONS = 8000
#: Longest answer of each inner call where the caller asked for a fusion as a tool.
TOOL_COMPLETION_TOKENS = 16_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a run needs to know, with every name made concrete.

    `members` go with `samplings` and `names`: those of the `places` first, then the candidates.
    """

    panel: str
    members: tuple[Member, ...]
    samplings: tuple[Sampling, ...]
    names: tuple[str, ...]
    places: int
    judge: str
    writer: str
    reducer: str
    answer: Literal["synthesis", "best_of", "judge_only"]
    layers: int
    quorum: int
    grace_s: float
    member_s: float
    analysis_tokens: int
    cost_cap: int | None
    #: None: those of the web that are configured.
    tools: tuple[ServerTool, ...] | None
    max_tool_calls: int
    effort: Effort | None = None

    def terms(
        self,
        request: Request,
        catalog: Catalog,
        deadline: float | None,
        cap: int | None,
        behind: Request | None = None,
    ) -> Terms:
        """The engine's terms. `cap` is what all may cost, in nano-dollars; `behind` is what an
        outer model answers when it has read the result."""
        return Terms(
            names=self.names,
            places=self.places,
            writer=self.writer,
            quorum=self.quorum,
            grace_s=self.grace_s,
            member_s=self.member_s,
            deadline=deadline,
            layers=self.layers,
            prices=None if cap is None else self._prices(request, catalog, cap, behind),
        )

    def _prices(
        self, request: Request, catalog: Catalog, cap: int, behind: Request | None
    ) -> Prices:
        """The worst that each call can cost, counted as the till counts it: a token for each
        byte that is read."""
        specs = catalog.models
        wrote = [_longest(specs[member.model], member.max_tokens) for member in self.members]
        answers = sum(wrote[: self.places]) * _BYTES_A_TOKEN
        analysis = self.analysis_tokens * _BYTES_A_TOKEN
        plain = changed(request, tools=())

        def worst(model: str, asked: Request, material: int, written: int) -> int | None:
            spec = specs[model]
            if spec.price is None:
                return None
            # What is longer than the window is shortened before it is sent.
            material = min(material, spec.context * _BYTES_A_TOKEN) + _INSTRUCTIONS
            read = bound.input_tokens(asked, spec.image_tokens) + material
            return spec.price.worst(read, written)

        longest = _longest(specs[self.writer], request.sampling.max_tokens)
        writer = worst(self.writer, behind or request, answers + analysis, longest)
        # It may be asked a second time, to repair what it wrote.
        judge = worst(self.judge, plain, answers + analysis, self.analysis_tokens)
        before = 0 if self.layers == 1 else answers
        return Prices(
            cap=cap,
            members=tuple(
                worst(member.model, plain, before + len(member.persona or ""), most)
                for member, most in zip(self.members, wrote, strict=True)
            ),
            judge=None if judge is None else 2 * judge,
            writer=0 if self.answer == "best_of" and behind is None else writer,
        )


def _longest(spec: ModelSpec, wanted: int | None) -> int:
    return spec.max_output if wanted is None else min(wanted, spec.max_output)


def make(
    catalog: Catalog, panel: str | None, options: FusionOptions | None, writer: str | None = None
) -> Plan:
    """The plan for a panel of the catalog. The options' preset wins over `panel`, their models
    win over both; with neither it is the default panel.

    `writer` is who writes the answer where the caller asked a model of its own to. Raises
    BadRequest or ModelNotFound, with the field of the contract that is wrong.
    """
    options = options or FusionOptions()
    spec, name = _panel(catalog, panel, options)
    judge = spec.judge or catalog.roles.judge
    if options.judge is not None:
        judge = _concrete(catalog, options.judge, "model")
        # By the contract, the judge of a request also writes its answer.
        writer = writer or judge
    judge = catalog.model_behind(judge)
    alone = spec.answer == "judge_only"
    if alone:
        writer = judge
    members = tuple(
        _member(catalog, member, options) for member in (*spec.places, *spec.candidates)
    )
    places = len(spec.places)
    return Plan(
        panel=name,
        members=members,
        samplings=tuple(member.sampling for member in members),
        names=numbered(member.model for member in (*spec.places, *spec.candidates)),
        places=0 if alone else places,
        judge=judge,
        writer=writer or _writer(catalog, spec, judge),
        reducer=catalog.reducer(),
        answer=spec.answer,
        layers=spec.layers,
        quorum=min(spec.quorum or ceil(places * 2 / 3), places),
        grace_s=spec.grace_s,
        member_s=spec.timeout_s,
        analysis_tokens=_analysis_tokens(spec, catalog.models[judge], options),
        cost_cap=None if spec.cost_cap_usd is None else int(spec.cost_cap_usd * NANO_PER_USD),
        tools=_tools(spec, options),
        max_tool_calls=options.max_tool_calls or spec.max_tool_calls,
        effort=options.effort,
    )


def _analysis_tokens(panel: Panel, judge: ModelSpec, options: FusionOptions) -> int:
    """Clamped so that the answers have most of the judge's window."""
    wanted = panel.analysis_tokens
    if options.effort not in (None, "none"):
        # What it thinks counts as written too.
        wanted = max(wanted, TOOL_COMPLETION_TOKENS)
    if options.max_completion_tokens is not None:
        wanted = min(wanted, options.max_completion_tokens)
    return min(wanted, judge.max_output, max(128, judge.context // 4))


def _panel(catalog: Catalog, panel: str | None, options: FusionOptions) -> tuple[Panel, str]:
    if options.preset is not None:
        panel = options.preset
        if panel not in catalog.panels:
            known = ", ".join(catalog.panels) or "none"
            raise BadRequest(
                f"There is no preset '{panel}'. Presets are the catalog's panels: {known}.",
                param="preset",
            )
    name = panel or DEFAULT_PANEL
    spec = catalog.panels.get(name)
    if options.analysis_models:
        if len(options.analysis_models) > MAX_PANEL:
            raise BadRequest(f"A panel has at most {MAX_PANEL} models.", param="analysis_models")
        named = (
            Member(model=_named(catalog, model, "analysis_models"))
            for model in options.analysis_models
        )
        changed: dict[str, Any] = {
            "members": tuple(named),
            "candidates": (),
            "self": 1,
            "quorum": None,
        }
        if spec is not None and spec.answer == "judge_only":
            changed["answer"] = "synthesis"  # who names models wants to hear them
        return (spec or Panel(members=changed["members"])).model_copy(update=changed), name
    if spec is None:
        raise BadRequest(
            "The catalog has no panel 'default': name the models in 'analysis_models'.",
            param="analysis_models",
        )
    return spec, name


def _named(catalog: Catalog, name: str, param: str) -> str:
    _concrete(catalog, name, param)
    return name


def _concrete(catalog: Catalog, name: str, param: str) -> str:
    """The model behind a name of the request's."""
    target = catalog.resolve(name)
    if target is None:
        raise ModelNotFound(f"No model or alias is called '{name}'.", param=param)
    if target.kind != "model":
        what = "the router" if name == AUTO else "a fusion"
        raise BadRequest(
            f"'{name}' is {what} and cannot stand in a panel ({FUSION}...); name a model.",
            param=param,
        )
    return target.name


def _member(catalog: Catalog, member: Member, options: FusionOptions) -> Member:
    """The member as this request wants it, its model a concrete one."""
    limit = options.max_completion_tokens
    if limit is None and options.entry == "tool":
        limit = TOOL_COMPLETION_TOKENS
    limits = [one for one in (limit, member.max_tokens) if one is not None]
    changed = {
        "model": catalog.model_behind(member.model),
        "max_tokens": min(limits) if limits else None,
        "temperature": (member.temperature if options.temperature is None else options.temperature),
    }
    return member.model_copy(update=changed)


def _tools(panel: Panel, options: FusionOptions) -> tuple[ServerTool, ...] | None:
    if options.tools is not None:
        return options.tools
    return None if panel.tools is None else tuple(map(ServerTool, panel.tools))


def _writer(catalog: Catalog, panel: Panel, judge: str) -> str:
    name = panel.synthesis or panel.judge or catalog.roles.synthesis
    return catalog.model_behind(name) if name else judge
