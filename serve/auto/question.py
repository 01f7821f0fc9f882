"""What the router is asked about a request: who could answer, within what. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from models.catalog import Catalog
from models.errors import BadRequest
from models.messages import Request, RouteOptions
from models.prices import NANO_PER_USD
from models.spec import ModelSpec, OpenAIModel
from models.wrappers.fit import needs_images
from router.candidate import TYPICAL_ANSWER, Candidate, prior_strength
from router.live import KINDS, Question
from router.objective import Menu, Objective, Panel
from serve.money import bound

#: Characters of a token, about.
_CHARACTERS = 4.0
#: Characters that are about a token each: Chinese, Japanese, Korean and what comes after them.
_WIDE = re.compile("[\u2e80-\U0010ffff]+")
#: The size that a model's name tells, in billions or millions of parameters.
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s?([bBmM])(?![a-zA-Z])")
#: A model that runs here and tells neither price nor size is more likely a small one.
_UNKNOWN_WORKFORCE = 0.3
#: The signs that each way to look at an answer looks for.
_CHECKS = {
    "agreement": ("agrees",),
    "judge": ("judged",),
    "checker": ("finished", "valid", "sums"),
    "confidence": ("confident",),
}


def question(request: Request, catalog: Catalog) -> Question:
    """The question of this request. Its candidates are empty where no model can do it.

    Raises BadRequest for a kind of subtask that does not exist.
    """
    rules, options = catalog.router, request.route or RouteOptions()
    if options.kind is not None and options.kind not in KINDS:
        raise BadRequest(
            f"No kind of subtask is called '{options.kind}'; there are {', '.join(KINDS)}.",
            param="fusion.kind",
        )
    able = {
        name: spec
        for name, spec in catalog.models.items()
        if spec.tools >= bool(request.tools) and spec.images >= needs_images(request)
    }
    candidates = tuple(
        candidate(name, spec, catalog, request) for name, spec in _roomy(able, request).items()
    )
    names = {one.name for one in candidates}
    # What a model calls tools for cannot be judged before they have run.
    verify = () if request.tools else rules.verify
    return Question(
        prompt=asked(request),
        candidates=candidates,
        objective=Objective(
            quality=rules.quality if options.quality is None else options.quality,
            ceiling=rules.max_usd if options.max_usd is None else options.max_usd,
            share=_share(options, catalog),
        ),
        menu=Menu(
            flagships=frozenset(n for n in names if catalog.models[n].tier == "flagship"),
            panels=() if request.tools else _panels(catalog, names),
        ),
        kind=options.kind,
        looks=tuple(
            sign
            for check in verify
            for sign in _CHECKS[check]
            if _shows(sign, request, [catalog.models[name] for name in names])
        ),
        samples=int("agreement" in verify),
        explore=rules.explore,
        explore_usd=rules.explore_usd_per_day,
    )


def asked(request: Request) -> str:
    """What the router judges the difficulty by: the last thing that was asked."""
    return next((m.text for m in reversed(request.messages) if m.role == "user"), "")


def candidate(name: str, spec: ModelSpec, catalog: Catalog, request: Request) -> Candidate:
    """A model with what this request would cost there, as far as that is known."""
    told = catalog.router.models.get(name)
    known_as = told.known_as if told and told.known_as else _upstream(spec) or name
    tokens = _tokens(request)
    limit = min(request.sampling.max_tokens or spec.max_output, spec.max_output)
    cost = most = None
    if spec.price is not None:
        dear = float(spec.price.output)
        cost = (tokens * float(spec.price.input) + min(TYPICAL_ANSWER, limit) * dear) / 1e6
        # What nobody counts is set aside by its bytes before the call leaves.
        read = int(tokens)
        if spec.tier == "flagship":
            read = bound.input_tokens(request, spec.image_tokens)
        most = spec.price.worst(read, limit) / NANO_PER_USD
    elif spec.tier == "workforce":
        # It costs nothing more than the machine that runs anyway.
        cost = most = 0.0
    strength = told.strength if told and told.strength is not None else _strength(name, spec)
    return replace(Candidate(name, known_as, strength, cost), most=most)


def _roomy(models: Mapping[str, ModelSpec], request: Request) -> Mapping[str, ModelSpec]:
    """Those whose window about holds the prompt and an answer; else the one with the largest."""
    least = _tokens(request) + 1
    if not models or any(spec.context >= least for spec in models.values()):
        return {name: spec for name, spec in models.items() if spec.context >= least}
    widest = max(models, key=lambda name: models[name].context)
    return {widest: models[widest]}


def _tokens(request: Request) -> float:
    """Of the prompt, about."""
    text = "".join(message.text for message in request.messages)
    wide = 0 if text.isascii() else sum(map(len, _WIDE.findall(text)))
    return wide + (len(text) - wide) / _CHARACTERS


def _strength(name: str, spec: ModelSpec) -> float:
    """By price, else by the size that its name tells (`qwen3-8b`, `SmolLM2-135M`)."""
    price = float(spec.price.output) if spec.price else None
    size = _SIZE.search(f"{name} {getattr(spec, 'source', '')}")
    billions = float(size[1]) / (1.0 if size[2] in "bB" else 1000.0) if size else None
    if price is None and billions is None and spec.tier == "workforce":
        return _UNKNOWN_WORKFORCE
    return prior_strength(price, billions)


def _share(options: RouteOptions, catalog: Catalog) -> float | None:
    if options.flagship_share is not None:
        return options.flagship_share
    # Who turns the knob by hand wants the knob.
    return catalog.router.flagship_share if options.quality is None else None


def _shows(sign: str, request: Request, models: Sequence[ModelSpec]) -> bool:
    if sign == "confident":
        return any(getattr(spec, "logprobs", False) for spec in models)
    shaped = request.response_format is not None and request.response_format.kind != "text"
    return {"valid": shaped, "sums": not shaped}.get(sign, True)


def _panels(catalog: Catalog, names: set[str]) -> tuple[Panel, ...]:
    """Those whose every part can do what is asked; a judge and a writer cost as one answer each."""
    found = []
    for name in catalog.router.panels:
        members = [catalog.model_behind(m.model) for m in catalog.panels[name].members]
        if len(members) >= 2 and {*members, catalog.writer_of(name)} <= names:
            judges = (catalog.judge_of(name), catalog.writer_of(name))
            prices = [catalog.models[judge].price for judge in judges]
            overhead = sum(
                (len(members) * TYPICAL_ANSWER * float(p.input) + TYPICAL_ANSWER * float(p.output))
                / 1e6
                for p in prices
                if p is not None
            )
            found.append(Panel(tuple(members), overhead=overhead, name=name))
    return tuple(found)


def _upstream(spec: ModelSpec) -> str | None:
    """What the provider calls a remote model, whatever it is called here."""
    return spec.upstream if isinstance(spec, OpenAIModel) else getattr(spec, "upstream", None)
