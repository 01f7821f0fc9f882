"""Reads a catalog from YAML and says everything that is wrong with it at once.

Each problem is one line: file, line number, what is wrong, and the mend.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from models.catalog import (
    AUTO,
    CONTRACT_NAMES,
    FUSION,
    PLAN,
    RESERVED_PANELS,
    Catalog,
    FakeModelSpec,
    Member,
    OpenAIModel,
    Panel,
    Replicas,
    Roles,
    Server,
    Subtasks,
    VllmModel,
)
from models.prices import Price

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong. `line` counts from 1."""

    line: int
    message: str
    mend: str = ""

    def render(self, file: str) -> str:
        """`file:line: message (mend)`, without a line break."""
        text = f"{file}:{self.line}: {self.message}" + (f" — {self.mend}" if self.mend else "")
        return " ".join(text.split())


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
    return parse(text, file, environ)


def parse(text: str, file: str, environ: Mapping[str, str] = os.environ) -> Catalog:
    """The catalog in this text; `file` is only named in problems."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 1
        problem = Problem(line, f"not YAML: {error.problem}", "look at this line and the one above")
        raise CatalogError(file, [problem]) from None
    if not isinstance(root, yaml.MappingNode):
        problem = Problem(1, "the catalog must be a mapping", "start with 'models:'")
        raise CatalogError(file, [problem])

    lines: dict[Path_, int] = {}
    problems: list[Problem] = []
    _walk(root, (), lines, problems)
    try:
        data: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = Problem(1, f"not plain YAML: {error}", "use mappings, lists, text and numbers")
        raise CatalogError(file, [problem]) from None

    catalog = None
    try:
        catalog = Catalog.model_validate(data)
    except ValidationError as error:
        problems += [_schema_problem(detail, lines) for detail in error.errors()]
    # References are checked on the raw data, so that they are reported beside, and not only
    # after, the mistakes of form.
    problems += [
        Problem(_line(lines, path), message, mend)
        for path, message, mend in (*_references(data), *_environment(data, environ))
    ]
    if problems or catalog is None:
        raise CatalogError(file, problems)
    return catalog


def _walk(node: yaml.Node, path: Path_, lines: dict[Path_, int], problems: list[Problem]) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*path, index), lines, problems)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, key.value)
            line = key.start_mark.line + 1
            if here in lines:
                first = lines[here]
                problems.append(
                    Problem(line, f"'{key.value}' stands twice (first on line {first})", "keep one")
                )
                continue
            lines[here] = line
            _walk(value, here, lines, problems)


def _line(lines: Mapping[Path_, int], path: Path_) -> int:
    """The line of this place, or of the nearest place above it that the file has."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _schema_problem(detail: Any, lines: Mapping[Path_, int]) -> Problem:
    path = _file_path(tuple(detail["loc"]), lines)
    where = ".".join(str(part) for part in path) or "catalog"
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(_line(lines, path), f"unknown key '{where}'", _nearest_key(path))
    if kind == "missing":
        return Problem(_line(lines, path), f"'{where}' is missing", "add it")
    if kind.startswith("union_tag"):
        return Problem(
            _line(lines, path),
            f"'{where}' needs an engine that exists",
            f"set engine to one of {context.get('expected_tags', 'vllm, openai, fake')}",
        )
    if kind == "too_long" and path[-1:] == ("members",):
        return Problem(_line(lines, path), f"'{where}' has more than 8 members", "keep at most 8")
    given = "" if isinstance(detail["input"], dict | list) else f" (given: {detail['input']!r})"
    return Problem(_line(lines, path), f"'{where}': {detail['msg']}{given}", "")


def _file_path(loc: Path_, lines: Mapping[Path_, int]) -> Path_:
    """Pydantic's place without its own marks (a union's tag, `[key]`)."""
    path: Path_ = ()
    for part in loc[:-1]:
        if (*path, part) in lines:
            path = (*path, part)
    return path if loc[-1:] == ("[key]",) else (*path, *loc[-1:])


#: Whose keys may stand under each section of the file.
_KEYS_UNDER: Mapping[str, tuple[type[BaseModel], ...]] = {
    "server": (Server,),
    "models": (VllmModel, FakeModelSpec, OpenAIModel, Replicas, Price),
    "panels": (Panel, Member),
    "roles": (Roles, Subtasks),
}


def _nearest_key(path: Path_) -> str:
    owners = _KEYS_UNDER.get(str(path[0]), ()) if len(path) > 1 else (Catalog,)
    keys = sorted({key for owner in owners for key in owner.model_fields})
    near = difflib.get_close_matches(str(path[-1]), keys, n=1)
    return f"did you mean '{near[0]}'?" if near else f"remove it; known here: {', '.join(keys)}"


def _references(data: Any) -> Iterator[tuple[Path_, str, str]]:
    """Names that point nowhere, in a circle, or at something that cannot stand there."""
    models, aliases, panels = (_mapping(data, key) for key in ("models", "aliases", "panels"))
    names = _Names(models, aliases, panels)
    for group in (models, aliases, panels):
        key = "models" if group is models else "aliases" if group is aliases else "panels"
        for name in group:
            yield from _bad_name((key, name), str(name), aliases if group is models else {})
    for name, target in aliases.items():
        yield from names.check(("aliases", name), target, start=str(name))
    for name, spec in models.items():
        for index, other in enumerate(_list(spec, "fallbacks")):
            yield from names.check(("models", name, "fallbacks", index), other, model_only=True)
    for name, panel in panels.items():
        for index, member in enumerate(_list(panel, "members")):
            target = member.get("model") if isinstance(member, dict) else member
            place: Path_ = ("panels", name, "members", index)
            yield from names.check(place, target, model_only=True)
        for role in ("judge", "synthesis"):
            if isinstance(panel, dict) and panel.get(role) is not None:
                yield from names.check(("panels", name, role), panel[role], model_only=True)
    roles = _mapping(data, "roles")
    for role in ("judge", "synthesis", "plan"):
        if roles.get(role) is not None:
            yield from names.check(("roles", role), roles[role], model_only=role != "plan")
    for kind, target in _mapping(roles, "subtasks").items():
        yield from names.check(("roles", "subtasks", kind), target)


def _bad_name(
    path: Path_, name: str, aliases: Mapping[Any, Any]
) -> Iterator[tuple[Path_, str, str]]:
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
        self, path: Path_, name: Any, *, start: str | None = None, model_only: bool = False
    ) -> Iterator[tuple[Path_, str, str]]:
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
        if fused and model_only:
            yield path, f"'{name}' is a fusion and cannot stand here", "name a model"
        elif not fused:
            yield path, f"nothing is called '{name}'", self._nearest(name)

    def _nearest(self, name: str) -> str:
        known = [
            *map(str, self.models),
            *map(str, self.aliases),
            *(f"{FUSION}{p}" for p in self.panels),
        ]
        near = difflib.get_close_matches(name, known, n=1)
        return f"did you mean '{near[0]}'?" if near else "define it under models or aliases"


def _environment(data: Any, environ: Mapping[str, str]) -> Iterator[tuple[Path_, str, str]]:
    for name, spec in _mapping(data, "models").items():
        variable = spec.get("api_key_env") if isinstance(spec, dict) else None
        if isinstance(variable, str) and not environ.get(variable):
            yield (
                ("models", name, "api_key_env"),
                f"model '{name}' needs the environment variable {variable}, which is not set",
                f"export {variable}=... or remove the model",
            )


def _mapping(data: Any, key: str) -> Mapping[Any, Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


def _list(data: Any, key: str) -> list[Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, list) else []
