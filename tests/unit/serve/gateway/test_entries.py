"""The Fusion contract's entries, field by field, as a client of the chat dialect writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.errors import BadRequest
from models.messages import FUSION_TOOL, FusionOptions, Named, Request, ServerTool
from serve.dialects import chat


def request(**changes: Any) -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]} | changes
    return chat.parse(json.dumps(body).encode()).request


def plugin(**fields: Any) -> FusionOptions:
    found = request(plugins=[{"id": "fusion"} | fields]).fusion
    assert found is not None
    return found


def tool(**parameters: Any) -> FusionOptions:
    found = request(tools=[{"type": "openrouter:fusion", "parameters": parameters}]).fusion
    assert found is not None
    return found


@pytest.mark.parametrize("model", ["openrouter/fusion", "openrouter/fusion-flash", "fusion/mine"])
def test_an_alias_alone_has_no_options(model: str) -> None:
    asked = request(model=model)
    assert (asked.model, asked.fusion) == (model, None)


def test_a_plugin_says_what_the_contract_lets_it_say() -> None:
    assert plugin() == FusionOptions(entry="plugin")
    assert plugin(enabled=False) == FusionOptions(entry="plugin", enabled=False)
    assert plugin(
        enabled=True,
        preset="general-high",
        analysis_models=["a", "b"],
        model="j",
        max_tool_calls=16,
        tools=[{"type": "openrouter:web_search", "parameters": {"max_results": 3}}],
    ) == FusionOptions(
        entry="plugin",
        preset="general-high",
        analysis_models=("a", "b"),
        judge="j",
        max_tool_calls=16,
        tools=(ServerTool("web_search", {"max_results": 3}),),
    )


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("web_search", {"max_results": 20, "allowed_domains": ["a.org"]}),
        ("web_search", {"engine": "auto", "max_uses": 3, "max_total_results": 50}),
        ("web_search", {"search_context_size": "high", "max_characters": 2000}),
        (
            "web_search",
            {"user_location": {"type": "approximate", "city": "Köln", "country": "DE"}},
        ),
        ("web_fetch", {"engine": "openrouter", "max_uses": 10}),
        ("documents", {"max_uses": 1}),
        ("web_search", {"excluded_domains": ["a.org", "b.co.uk"]}),
        ("web_fetch", {"max_content_tokens": 500, "blocked_domains": ["a.org"]}),
        ("documents", {"max_results": 2}),
        ("documents", {}),
    ],
)
def test_each_inner_tool_takes_its_own_parameters(kind: str, parameters: dict[str, Any]) -> None:
    for said in (kind, f"openrouter:{kind}"):
        [inner] = plugin(tools=[{"type": said, "parameters": parameters}]).tools or ()
        assert inner.name == kind
        assert json.loads(json.dumps(inner.parameters)) == parameters


def test_a_tool_says_more() -> None:
    assert request(tools=[{"type": "openrouter:fusion"}]).fusion == FusionOptions(entry="tool")
    assert tool(
        analysis_models=["a"],
        model="j",
        max_tool_calls=1,
        tools=[],
        max_completion_tokens=500,
        reasoning={"effort": "high"},
        temperature=2,
        cache_control={"type": "ephemeral", "ttl": "1h"},
    ) == FusionOptions(
        entry="tool",
        analysis_models=("a",),
        judge="j",
        max_tool_calls=1,
        tools=(),
        max_completion_tokens=500,
        temperature=2,
        effort="high",
        cache_ttl="1h",
    )


def test_what_is_not_said_is_told_apart_from_nothing() -> None:
    assert plugin().tools is None
    assert plugin(tools=[]).tools == ()


def test_one_to_eight_models_and_the_same_one_twice() -> None:
    assert plugin(analysis_models=["a"] * 8).analysis_models == ("a",) * 8
    assert tool(analysis_models=["a", "a"]).analysis_models == ("a", "a")


def test_thinking_may_be_counted_in_tokens() -> None:
    assert tool(reasoning={"max_tokens": 1024}).effort == "low"
    assert tool(reasoning={"max_tokens": 8000}).effort == "medium"
    assert tool(reasoning={"max_tokens": 60_000}).effort == "xhigh"
    assert tool(reasoning={"enabled": False}).effort == "none"


def test_the_fusion_is_a_tool_among_others() -> None:
    function = {"type": "function", "function": {"name": "look"}}
    fusion = {"type": "openrouter:fusion"}
    asked = request(tools=[function, fusion], tool_choice="required")
    assert [one.name for one in asked.tools] == ["look"]
    assert (asked.tool_choice, asked.fusion) == ("required", FusionOptions(entry="tool"))
    assert request(tools=[fusion], tool_choice="required").tool_choice == "required"
    assert request(tools=[fusion], tool_choice=fusion).tool_choice == Named(FUSION_TOOL)


def test_a_tool_wins_over_a_plugin_that_stands_beside_it() -> None:
    asked = request(
        plugins=[{"id": "fusion", "preset": "p", "model": "j", "max_tool_calls": 2}],
        tools=[{"type": "openrouter:fusion", "parameters": {"max_tool_calls": 3}}],
    )
    assert asked.fusion == FusionOptions(entry="tool", preset="p", judge="j", max_tool_calls=3)


def inner(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"tools": [{"type": kind, "parameters": parameters}]}


#: What is wrong, and the field that the answer must name, in a plugin and in a tool's parameters.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"analysis_models": []}, "analysis_models"),
    ({"analysis_models": ["a"] * 9}, "analysis_models"),
    ({"analysis_models": "a"}, "analysis_models"),
    ({"analysis_models": ["a", 1]}, "analysis_models.1"),
    ({"analysis_models": [""]}, "analysis_models.0"),
    ({"model": 1}, "model"),
    ({"model": ""}, "model"),
    ({"max_tool_calls": 0}, "max_tool_calls"),
    ({"max_tool_calls": 17}, "max_tool_calls"),
    ({"max_tool_calls": "4"}, "max_tool_calls"),
    ({"max_tool_calls": 1.5}, "max_tool_calls"),
    ({"max_tool_calls": True}, "max_tool_calls"),
    ({"tools": [{"type": "web_search"}] * 9}, "tools"),
    ({"tools": ["web_search"]}, "tools.0"),
    ({"tools": [{"type": "shell"}]}, "tools.0.type"),
    ({"tools": {"type": "web_search"}}, "tools"),
    ({"surprise": 1}, "surprise"),
    ({"tools": [{"type": "web_search"}, {"type": "openrouter:web_search"}]}, "tools"),
    (inner("web_search", max_results=0), "tools.0.parameters.max_results"),
    (inner("web_search", max_results=21), "tools.0.parameters.max_results"),
    (inner("web_search", max_results="3"), "tools.0.parameters.max_results"),
    (inner("web_search", engine="exa"), "tools.0.parameters.engine"),
    (inner("web_search", mode="turbo"), "tools.0.parameters.mode"),
    (inner("web_search", max_uses=0), "tools.0.parameters.max_uses"),
    (inner("web_search", max_total_results=0), "tools.0.parameters.max_total_results"),
    (inner("web_search", max_characters=0), "tools.0.parameters.max_characters"),
    (inner("web_search", search_context_size="huge"), "tools.0.parameters.search_context_size"),
    (inner("web_search", user_location="Köln"), "tools.0.parameters.user_location"),
    (
        inner("web_search", user_location={"city": "a\r\nx-admin: 1"}),
        "tools.0.parameters.user_location.city",
    ),
    (
        inner("web_search", user_location={"city": " "}),
        "tools.0.parameters.user_location.city",
    ),
    (inner("web_fetch", engine="firecrawl"), "tools.0.parameters.engine"),
    (inner("web_search", allowed_domains="a.org"), "tools.0.parameters.allowed_domains"),
    (inner("web_search", allowed_domains=["a b"]), "tools.0.parameters.allowed_domains.0"),
    (inner("web_search", excluded_domains=["x.y"] * 17), "tools.0.parameters.excluded_domains"),
    (inner("web_fetch", max_content_tokens=0), "tools.0.parameters.max_content_tokens"),
    (inner("web_fetch", max_results=3), "tools.0.parameters.max_results"),
    (inner("documents", allowed_domains=["a.org"]), "tools.0.parameters.allowed_domains"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_what_breaks_the_contract_is_a_400_that_names_the_field(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        plugin(**fields)
    assert caught.value.param == f"plugins.0.{param}"
    with pytest.raises(BadRequest) as caught:
        tool(**fields)
    assert caught.value.param == f"tools.0.parameters.{param}"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"analysis_models": []}, "its length must be at least 1"),
        ({"analysis_models": ["a"] * 9}, "its length must be at most 8"),
        ({"tools": [{"type": "shell"}]}, "'shell' is none of 'openrouter:web_search', "),
        ({"tools": [{}]}, "Missing required parameter: 'plugins.0.tools.0.type'."),
        ({"tools": [7]}, "Input should be an object"),
    ],
)
def test_a_breach_is_told_in_words_of_json(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        plugin(**fields)
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"preset": "general-high"}, "preset"),
        ({"enabled": True}, "enabled"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"reasoning": "high"}, "reasoning"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"reasoning": {"max_tokens": 0}}, "reasoning.max_tokens"),
        ({"reasoning": {"effort": "low", "max_tokens": 5}}, "reasoning"),
        ({"cache_control": {"type": "eternal"}}, "cache_control.type"),
        ({"cache_control": {"type": "ephemeral", "ttl": "2h"}}, "cache_control.ttl"),
    ],
)
def test_what_a_tool_may_not_say(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        tool(**fields)
    assert caught.value.param == f"tools.0.parameters.{param}"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_completion_tokens": 100}, "max_completion_tokens"),
        ({"temperature": 1}, "temperature"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"cache_control": {"type": "ephemeral"}}, "cache_control"),
        ({"enabled": "yes"}, "enabled"),
        ({"preset": 3}, "preset"),
        ({"id": "web"}, "id"),
    ],
)
def test_what_a_plugin_may_not_say(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        plugin(**fields)
    assert caught.value.param == f"plugins.0.{param}"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"plugins": [{"id": "fusion"}, {"id": "fusion"}]}, "plugins.1.id"),
        ({"plugins": {"id": "fusion"}}, "plugins"),
        ({"plugins": [{}]}, "plugins.0.id"),
        ({"tools": [{"type": "openrouter:fusion"}] * 2}, "tools.1.type"),
        ({"tools": [{"type": "openrouter:image_generation"}]}, "tools.0.type"),
        ({"tool_choice": {"type": "openrouter:fusion"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_entries_that_contradict_themselves(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        request(**body)
    assert caught.value.param == param
