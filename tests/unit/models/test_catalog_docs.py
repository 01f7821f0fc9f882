"""Keeps docs/catalog.md true: its tables against the records, its examples against the reader."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from models import catalog, panel, policies, scaling, spec
from models.catalog_file import CatalogError, parse
from models.record import Record
from models.tools import settings

PAGE = (Path(__file__).parents[3] / "docs" / "catalog.md").read_text("utf-8")

#: Record → the heading over its table.
SECTIONS = {
    "Catalog": "The file",
    "Server": "server",
    "_Model": "Every model",
    "Hosted": "Workforce models",
    "VllmModel": "engine: vllm",
    "FakeModelSpec": "engine: fake",
    "FlagshipSpec": "Flagship models",
    "ApiModel": "Remote APIs",
    "OpenAIModel": "engine: openai",
    "OpenAIResponsesModel": "engine: openai-responses",
    "AnthropicModel": "engine: anthropic",
    "PythonModel": "engine: python",
    "Replicas": "replicas",
    "Fleet": "fleet",
    "Scaling": "scaling",
    "NodePrice": "scaling.node",
    "SpotPrice": "scaling.node.spot",
    "OtherNode": "scaling.other_nodes",
    "ReplicaRates": "scaling.replica",
    "DecodeRate": "scaling.replica.decode",
    "Promise": "scaling.targets",
    "Price": "price",
    "Panel": "panels",
    "Member": "members",
    "Roles": "roles",
    "Subtasks": "roles.subtasks",
    "_Policy": "policies",
    "Spend": "kind: spend",
    "WallTime": "kind: time",
    "Rate": "kind: rate",
    "Allow": "kind: allow",
    "Loop": "kind: loop",
    "ToolCalls": "kind: tool_calls",
    "Privacy": "kind: privacy",
    "Size": "kind: size",
    "Own": "kind: python",
    "Approvals": "approvals",
    "Tools": "tools",
    "WebSearch": "tools.web_search",
    "WebFetch": "tools.web_fetch",
    "Documents": "tools.documents",
    "RouterRules": "router",
    "Acquaintance": "router.models",
    "Budget": "limits",
}

LIMITS = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minItems",
    "maxItems",
    "minLength",
    "minProperties",
)

RECORDS = {
    name: value
    for name, value in {
        **vars(settings),
        **vars(policies),
        **vars(scaling),
        **vars(spec),
        **vars(panel),
        **vars(catalog),
    }.items()
    if inspect.isclass(value) and issubclass(value, BaseModel)
    if value not in (BaseModel, Record)
}


def own_fields(record: str) -> dict[str, FieldInfo]:
    """What this record adds to the one that it extends."""
    cls = RECORDS[record]
    return {name: field for name, field in cls.model_fields.items() if name in cls.__annotations__}


FIELDS = [
    pytest.param(record, name, id=f"{record}.{name}")
    for record in RECORDS
    for name in own_fields(record)
]


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the table under this heading by their key: type, default, range, meaning."""
    section = re.search(rf"(?ms)^### {re.escape(heading)}$(.*?)(?=^##|\Z)", PAGE)
    assert section, f"docs/catalog.md has no section '{heading}'"
    rows = re.findall(r"(?m)^\| `(\w+)` \|(.*)\|$", section[1])
    return {key: [cell.strip() for cell in cells.split("|")] for key, cells in rows}


def blocks(kind: str) -> list[str]:
    return re.findall(rf"(?ms)^```{kind}\n(.*?)^```$", PAGE)


def test_every_record_has_its_section() -> None:
    assert set(RECORDS) == set(SECTIONS)


@pytest.mark.parametrize("record", SECTIONS)
def test_a_section_names_every_key_of_its_record_and_no_other(record: str) -> None:
    assert set(table(SECTIONS[record])) == set(own_fields(record))


@pytest.mark.parametrize(("record", "name"), FIELDS)
def test_a_default_on_the_page_is_the_default_in_the_program(record: str, name: str) -> None:
    field, cell = own_fields(record)[name], table(SECTIONS[record])[name][1]
    assert (cell == "required") == field.is_required()
    if not field.is_required():
        default = field.get_default(call_default_factory=True)
        assert cell == _shown(default, cell)


def _shown(default: Any, cell: str) -> str:
    if default is None:
        return cell  # the page says in words what stands in for it
    if isinstance(default, spec.Replicas):
        assert default.min == default.max
        default = default.min
    if isinstance(default, BaseModel):
        return "all defaults"
    if default in ((), {}):
        return "empty"
    if isinstance(default, tuple):
        return ", ".join(default)
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize(("record", "name"), FIELDS)
def test_a_limit_of_the_program_stands_on_the_page(record: str, name: str) -> None:
    schema = RECORDS[record].model_json_schema()["properties"][name]
    limits = {
        str(int(part[mark]))
        for part in (schema, *schema.get("anyOf", ()))
        for mark in LIMITS
        if mark in part
    }
    numbers = re.findall(r"\d+", table(SECTIONS[record])[name][2])
    assert limits <= set(numbers)


def test_the_page_has_examples() -> None:
    assert len(blocks("yaml")) >= 4


@pytest.mark.parametrize("text", blocks("yaml"))
def test_an_example_is_a_whole_catalog(text: str) -> None:
    assert parse(
        text, "docs/catalog.md", {"OPENAI_API_KEY": "a-key", "BRAVE_API_KEY": "a-key"}
    ).models


def test_the_broken_example_is_answered_with_the_lines_on_the_page() -> None:
    (text,), (answer,) = blocks("yaml broken"), blocks("text")
    with pytest.raises(CatalogError) as caught:
        parse(text, "fusion.yaml", {})
    assert caught.value.lines == answer.splitlines()


def test_a_link_on_the_page_leads_to_a_heading() -> None:
    headings = re.findall(r"(?m)^#+ (.+)$", PAGE)
    anchors = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
    assert set(re.findall(r"\(#([^)]+)\)", PAGE)) <= anchors
