"""Reads a catalog from YAML and says everything that is wrong with it at once.

Each problem is one line: file, line number, what is wrong, and the mend.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from models import yaml_lines
from models.catalog import (
    AUTO,
    CONTRACT_NAMES,
    FUSION,
    PLAN,
    RESERVED_PANELS,
    Acquaintance,
    Budget,
    Catalog,
    Roles,
    RouterRules,
    Server,
    Subtasks,
)
from models.panel import MAX_PANEL, Member, Panel
from models.policies import (
    Allow,
    Approvals,
    Loop,
    Own,
    Privacy,
    Rate,
    Size,
    Spend,
    ToolCalls,
    WallTime,
)
from models.scaling import Fleet
from models.spec import (
    AnthropicModel,
    FakeModelSpec,
    OpenAIModel,
    OpenAIResponsesModel,
    PythonModel,
    VllmModel,
)
from models.tools.settings import Documents, Tools, WebFetch, WebSearch
from models.yaml_lines import Document, Place, Problem


class CatalogError(Exception):
    """The catalog cannot be used. `problems` says why, in the order of the file."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = sorted(set(problems))
        super().__init__("\n".join(self.lines))

    @property
    def lines(self) -> list[str]:
        return [problem.render(self.file) for problem in self.problems]


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Catalog:
    """The catalog in this file. Raises CatalogError with every problem found."""
    file = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CatalogError(file, [Problem(1, "no such file", "name an existing file")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(file, [Problem(1, f"cannot be read: {error}")]) from None
    return _placed(parse(text, file, environ), path.absolute().parent)


def _placed(catalog: Catalog, folder: Path) -> Catalog:
    """With the folders of the user's own classes as seen from everywhere: what the file says is
    meant from where it stands, and without a word they are there."""
    models = {
        name: spec.model_copy(update={"path": str(folder / (spec.path or "."))})
        if isinstance(spec, PythonModel)
        else spec
        for name, spec in catalog.models.items()
    }
    return catalog.model_copy(update={"models": models})


def parse(text: str, file: str, environ: Mapping[str, str] = os.environ) -> Catalog:
    """The catalog in this text; `file` is only named in problems."""
    document = yaml_lines.read(text)
    if document.data is None:
        raise CatalogError(file, document.problems)
    problems = list(document.problems)
    catalog = None
    try:
        catalog = Catalog.model_validate(document.data)
    except ValidationError as error:
        problems += _schema_problems(error, document)
    # References are checked on the raw data, so that they are reported beside, and not only
    # after, the mistakes of form.
    problems += [
        Problem(document.line(place), message, mend)
        for place, message, mend in (
            *_references(document.data),
            *_environment(document.data, environ),
        )
    ]
    if problems or catalog is None:
        raise CatalogError(file, problems)
    return catalog


def _schema_problems(error: ValidationError, document: Document) -> Iterator[Problem]:
    details = error.errors(include_url=False)
    for detail in details:
        place = _place(detail, document)
        # Pydantic counts only the good members; a bad one is reported for itself.
        counted = detail["type"] == "too_short" and any(
            other is not detail and other["loc"][: len(detail["loc"])] == detail["loc"]
            for other in details
        )
        if not counted:
            yield Problem(document.line(place), *_explain(detail, place))


def _explain(detail: Any, place: Place) -> tuple[str, str]:
    """What is wrong, and the mend."""
    where = ".".join(map(str, place)) or "catalog"
    match detail["type"]:
        case "extra_forbidden":
            return f"unknown key '{where}'", _nearest_key(tuple(detail["loc"]))
        case "missing":
            return f"'{where}' is missing", "add it"
        case "union_tag_invalid" | "union_tag_not_found" if place[:1] == ("policies",):
            return f"'{where}' needs a kind that exists", f"set kind to {', '.join(_POLICIES)}"
        case "union_tag_invalid" | "union_tag_not_found":
            return f"'{where}' needs an engine that exists", f"set engine to {', '.join(_ENGINES)}"
        case "too_long" if place[-1:] == ("members",):
            return f"'{where}' has more than {MAX_PANEL} members", f"keep at most {MAX_PANEL}"
    if place[:1] == ("limits",) and detail["type"] == "string_pattern_mismatch":
        return (
            f"'{where}' is no account",
            "write all, or project:NAME, key:NAME, session:NAME, job:NAME, model:NAME (NAME may "
            "be *), tier:flagship, tier:workforce, tier:tool, part:brain, part:work",
        )
    message = detail["msg"].removeprefix("Value error, ")
    if place[-1:] in (("api_key_env",), ("webhook_key_env",)):
        # Somebody may have put the key itself here; it must not be printed.
        return f"'{where}': not the name of an environment variable", "name it, as OPENAI_API_KEY"
    if place[-1:] == ("base_url",):
        return f"'{where}': not an address like https://host/v1, without name or password", ""
    given = "" if isinstance(detail["input"], dict | list) else f" (given: {detail['input']!r})"
    if place == ("server", "store"):
        # A password may stand in it; it must not be printed.
        return (
            f"'{where}': not the address of a store",
            "write sqlite:////FOLDER/FILE or postgresql://USER@HOST/NAME, without a password",
        )
    return f"'{where}': {message}{given}", ""


def _place(detail: Any, document: Document) -> Place:
    """Pydantic's place without its own marks (a union's tag, `[key]`)."""
    place: Place = ()
    for part in detail["loc"]:
        if document.has((*place, part)):
            place = (*place, part)
    return (*place, detail["loc"][-1]) if detail["type"] == "missing" else place


_ENGINES: Mapping[str, type[BaseModel]] = {
    "vllm": VllmModel,
    "fake": FakeModelSpec,
    "openai": OpenAIModel,
    "openai-responses": OpenAIResponsesModel,
    "anthropic": AnthropicModel,
    "python": PythonModel,
}


_POLICIES: Mapping[str, type[BaseModel]] = {
    "spend": Spend,
    "time": WallTime,
    "rate": Rate,
    "allow": Allow,
    "loop": Loop,
    "tool_calls": ToolCalls,
    "privacy": Privacy,
    "size": Size,
    "python": Own,
}
_TOOLS: Mapping[str, type[BaseModel]] = {
    "web_search": WebSearch,
    "web_fetch": WebFetch,
    "documents": Documents,
}


def _record_at(loc: Place) -> type[BaseModel]:
    """The record whose key stands at the end of this place of pydantic's."""
    match loc:
        case ("server", *inner, _):
            return _within(Server, inner)
        case ("fleet", _):
            return Fleet
        case ("models", _, engine, *inner, _):
            return _within(_ENGINES[str(engine)], inner)
        case ("panels", _, "members" | "candidates", _, *_):
            return Member
        case ("panels", *_):
            return Panel
        case ("limits", *_):
            return Budget
        case ("router", "models", _, _):
            return Acquaintance
        case ("router", _):
            return RouterRules
        case ("roles", "subtasks", _):
            return Subtasks
        case ("roles", _):
            return Roles
        case ("policies", _, kind, _):
            return _POLICIES[str(kind)]
        case ("approvals", _):
            return Approvals
        case ("tools", tool, _):
            return _TOOLS[str(tool)]
        case ("tools", _):
            return Tools
    return Catalog


def _within(record: type[BaseModel], keys: Sequence[Any]) -> type[BaseModel]:
    """The record that stands at these keys of another."""
    for key in keys:
        annotation = record.model_fields[str(key)].annotation
        record = next(
            one
            for one in (annotation, *get_args(annotation))
            if isinstance(one, type) and issubclass(one, BaseModel)
        )
    return record


def _nearest_key(loc: Place) -> str:
    keys = list(_record_at(loc).model_fields)
    near = difflib.get_close_matches(str(loc[-1]), keys, n=1)
    return f"did you mean '{near[0]}'?" if near else f"remove it; known here: {', '.join(keys)}"


def _references(data: Any) -> Iterator[tuple[Place, str, str]]:
    """Names that point nowhere, in a circle, or at something that cannot stand there."""
    models, aliases, panels = (_mapping(data, key) for key in ("models", "aliases", "panels"))
    names, tools = _Names(models, aliases, panels), _mapping(data, "tools")
    for group in (models, aliases, panels):
        key = "models" if group is models else "aliases" if group is aliases else "panels"
        for name in group:
            yield from _bad_name((key, name), str(name), aliases if group is models else {})
    for name, target in aliases.items():
        yield from names.check(("aliases", name), target, start=str(name))
    for name, spec in models.items():
        for index, other in enumerate(_list(spec, "fallbacks")):
            yield from names.check(("models", name, "fallbacks", index), other, model_only=True)
        for index, other in enumerate(_list(_mapping(spec, "scaling"), "spill")):
            place: Place = ("models", name, "scaling", "spill", index)
            yield from names.check(place, other, model_only=True)
    for name, panel in panels.items():
        for key in ("members", "candidates"):
            for index, member in enumerate(_list(panel, key)):
                target = member.get("model") if isinstance(member, dict) else member
                place = ("panels", name, key, index)
                yield from names.check(place, target, model_only=True)
        for index, tool in enumerate(_list(panel, "tools")):
            if tool not in tools:
                there = ", ".join(map(str, tools)) or "none"
                why = f"no tool '{tool}' is configured under tools"
                yield ("panels", name, "tools", index), why, f"configured: {there}"
        for role in ("judge", "synthesis"):
            if isinstance(panel, dict) and panel.get(role) is not None:
                yield from names.check(("panels", name, role), panel[role], model_only=True)
    roles = _mapping(data, "roles")
    for role in ("judge", "synthesis", "plan", "reduce"):
        if roles.get(role) is not None:
            yield from names.check(("roles", role), roles[role], model_only=role != "plan")
    for name, policy in _mapping(data, "policies").items():
        if isinstance(policy, dict) and policy.get("downgrade_to") is not None:
            place = ("policies", name, "downgrade_to")
            yield from names.check(place, policy["downgrade_to"], model_only=True)
    for kind, target in _mapping(roles, "subtasks").items():
        yield from names.check(("roles", "subtasks", kind), target)
    router = _mapping(data, "router")
    for index, panel in enumerate(_list(router, "panels")):
        if isinstance(panel, str) and panel not in panels:
            known = ", ".join(map(str, panels)) or "none"
            place = ("router", "panels", index)
            yield place, f"no panel is called '{panel}'", f"panels here: {known}"
    for account in _mapping(data, "limits"):
        yield from _misnamed(str(account), models, aliases)
    for name in _mapping(router, "models"):
        if name not in models:
            yield ("router", "models", name), f"no model is called '{name}'", "name a model"


def _misnamed(
    account: str, models: Mapping[Any, Any], aliases: Mapping[Any, Any]
) -> Iterator[tuple[Place, str, str]]:
    """A limit of a model that there is not would limit nothing, in silence."""
    kind, _, name = account.partition(":")
    if kind != "model" or name == "*" or name in models:
        return
    if name in aliases:
        why = f"'{name}' is an alias, and what is spent is booked on the model behind it"
        yield ("limits", account), why, f"limit model:{aliases[name]}"
    else:
        yield ("limits", account), f"no model is called '{name}'", "name a model, or model:*"


def _bad_name(
    path: Place, name: str, aliases: Mapping[Any, Any]
) -> Iterator[tuple[Place, str, str]]:
    if path[0] == "panels":
        if name in RESERVED_PANELS:
            yield path, f"a panel cannot be called '{name}'", "that name is reserved; take another"
    elif name.startswith((FUSION, "openrouter/")):
        yield path, f"'{name}' starts with a reserved prefix", "rename it"
    elif name in aliases:
        yield path, f"'{name}' is both a model and an alias", "rename one of them"


@dataclass(frozen=True, slots=True)
class _Names:
    """The names that a raw catalog defines, and where each leads."""

    models: Mapping[Any, Any]
    aliases: Mapping[Any, Any]
    panels: Mapping[Any, Any]

    def check(
        self, path: Place, name: Any, *, start: str | None = None, model_only: bool = False
    ) -> Iterator[tuple[Place, str, str]]:
        if not isinstance(name, str):
            return  # a mistake of form, which the schema reports
        seen = [start] if start else []
        while name in self.aliases and name not in self.models:
            if name in seen:
                circle = " → ".join((*seen[seen.index(name) :], name))
                yield path, f"aliases go in a circle: {circle}", "point one of them at a model"
                return
            seen.append(name)
            name = self.aliases[name]
            if not isinstance(name, str):
                return
        if name in self.models:
            return
        panel = CONTRACT_NAMES.get(name) or name.removeprefix(FUSION)
        fused = name in (AUTO, PLAN) or (panel != name and panel in self.panels)
        if name == PLAN and path[0] == "roles":
            yield path, "a plan cannot stand inside a plan", "name a model, a panel or fusion/auto"
        elif fused and model_only:
            yield path, f"'{name}' is a fusion and cannot stand here", "name a model"
        elif not fused:
            yield path, f"nothing is called '{name}'", self._nearest(name)

    def _nearest(self, name: str) -> str:
        known = [
            *map(str, self.models),
            *map(str, self.aliases),
            *(f"{FUSION}{p}" for p in self.panels),
        ]
        if near := difflib.get_close_matches(name, known, n=1):
            return f"did you mean '{near[0]}'?"
        panel = CONTRACT_NAMES.get(name) or name.removeprefix(FUSION)
        if panel != name:
            return f"define the panel '{panel}' under panels"
        return "define it under models or aliases"


def _environment(data: Any, environ: Mapping[str, str]) -> Iterator[tuple[Place, str, str]]:
    tools = _mapping(data, "tools")
    keyed = [("models", name, spec, "model") for name, spec in _mapping(data, "models").items()]
    keyed += [("tools", name, spec, "tool") for name, spec in tools.items()]
    for section, name, spec, what in keyed:
        variable = spec.get("api_key_env") if isinstance(spec, dict) else None
        if not isinstance(variable, str) or not variable.isidentifier():
            continue  # a mistake of form, which the schema reports
        if not environ.get(variable):
            yield (
                (section, name, "api_key_env"),
                f"{what} '{name}' needs the environment variable {variable}, which is not set",
                f"export {variable}=... or remove the {what}",
            )
    secret = _mapping(data, "approvals").get("webhook_key_env")
    if isinstance(secret, str) and secret.isidentifier() and not environ.get(secret):
        yield (
            ("approvals", "webhook_key_env"),
            f"the webhook needs the environment variable {secret}, which is not set",
            f"export {secret}=... or remove the webhook",
        )
    missing = [name for name in ("detect_secrets", "stdnum") if find_spec(name) is None]
    for name, policy in _mapping(data, "policies").items():
        if isinstance(policy, dict) and policy.get("kind") == "privacy" and missing:
            yield (
                ("policies", name),
                f"'{name}' needs packages that are not installed ({', '.join(missing)})",
                "pip install '.[privacy]', or remove the policy",
            )
    if tools.get("web_fetch") is not None and find_spec("trafilatura") is None:
        yield (
            ("tools", "web_fetch"),
            "'web_fetch' needs the package trafilatura, which is not installed",
            "pip install '.[web]', or remove the tool",
        )


def _mapping(data: Any, key: str) -> Mapping[Any, Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


def _list(data: Any, key: str) -> list[Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, list) else []
