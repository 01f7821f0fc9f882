from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.catalog import AUTO, PLAN, Catalog, Server, Target, asked_names
from models.messages import FusionOptions, PlanOptions, Request, Sampling
from models.panel import Panel
from models.scaling import FIRST
from models.spec import FakeModelSpec, OpenAIModel, VllmModel
from models.workforce.names import off_spot

SCALING: dict[str, Any] = {
    "node": {"usd_per_hour": 0.8, "startup_s": 30},
    "replica": {
        "prefill_tokens_per_s": 1000,
        "decode": {"step_base_s": 0.04, "step_per_sequence_s": 0.04, "max_batch": 4},
    },
}


def catalog(**sections: Any) -> Catalog:
    base: dict[str, Any] = {
        "models": {"small": {"engine": "fake"}, "large": {"engine": "fake"}},
        "roles": {"judge": "small"},
    }
    return Catalog.model_validate(base | sections)


def model(**keys: Any) -> Any:
    return catalog(models={"small": keys}).models["small"]


def test_the_smallest_catalog_is_one_model_and_its_judge() -> None:
    smallest = Catalog.model_validate(
        {"models": {"small": {"engine": "fake"}}, "roles": {"judge": "small"}}
    )
    assert smallest.resolve("small") == Target("model", "small")
    assert smallest.server.port == 8000


def test_the_engine_decides_which_record_a_model_is() -> None:
    assert isinstance(model(engine="vllm", source="a/b"), VllmModel)
    assert isinstance(model(engine="fake"), FakeModelSpec)
    assert isinstance(model(engine="openai"), OpenAIModel)


def test_a_model_that_calls_tools_in_words_calls_tools() -> None:
    assert model(engine="vllm", source="a/b", tool_calls="text").tools
    assert not model(engine="vllm", source="a/b", tool_calls="text", tools=False).tools
    assert not model(engine="vllm", source="a/b").tools


def test_who_hosts_a_model_is_its_tier() -> None:
    assert model(engine="vllm", source="a/b").tier == "workforce"
    assert model(engine="fake").tier == "workforce"
    assert model(engine="openai").tier == "flagship"
    with pytest.raises(ValidationError, match="tier"):
        model(engine="openai", tier="workforce")


def test_a_fixed_number_of_replicas_is_both_ends_of_the_range() -> None:
    assert model(engine="fake", replicas=3) == model(engine="fake", replicas={"min": 3, "max": 3})


@pytest.mark.parametrize(
    "replicas", [{"min": 0, "max": 0}, -1, 1001, True, "many", {"min": 3, "max": 2}]
)
def test_replicas_that_cannot_be(replicas: Any) -> None:
    with pytest.raises(ValidationError, match="replicas"):
        model(engine="fake", replicas=replicas)


def test_an_answer_must_leave_room_for_its_prompt() -> None:
    assert model(engine="fake", context=1025, max_output=1024).context == 1025
    with pytest.raises(ValidationError, match=r"max_output \(1024\) must be below context"):
        model(engine="fake", context=1024, max_output=1024)


@pytest.mark.parametrize(
    "name", ["smollm2", "Qwen/Qwen3-8B", "gpt-5.1", "org:model@2", "a", "0", "x" * 128]
)
def test_a_name_looks_like_a_models_name(name: str) -> None:
    named = catalog(models={name: {"engine": "fake"}}, roles={"judge": name})
    assert named.resolve(name) == Target("model", name)


@pytest.mark.parametrize("name", ["", " a", "a b", "-a", "/a", "a#2", "ä", "a\n", "x" * 129])
def test_a_name_never_has_spaces_or_a_member_mark(name: str) -> None:
    with pytest.raises(ValidationError):
        catalog(models={name: {"engine": "fake"}})


def test_an_unknown_key_is_an_error_everywhere() -> None:
    with pytest.raises(ValidationError, match="serverr"):
        catalog(serverr={})
    with pytest.raises(ValidationError, match="contxt"):
        model(engine="fake", contxt=1)


def test_aliases_are_followed_to_the_end() -> None:
    known = catalog(aliases={"default": "best", "best": "large"})
    assert known.resolve("default") == Target("model", "large")
    assert known.model_behind("default") == "large"


def test_an_alias_may_point_at_a_panel_or_a_route() -> None:
    known = catalog(
        aliases={"team": "fusion/trio", "smart": AUTO, "router": "openrouter/fusion"},
        panels={"trio": {"members": ["small"]}, "default": {"members": ["small"]}},
    )
    assert known.resolve("team") == Target("panel", "trio")
    assert known.resolve("smart") == Target("auto", "auto")
    assert known.resolve("router") == Target("panel", "default")


def test_openrouters_names_are_panels_where_the_panels_exist() -> None:
    panels = {"default": {"members": ["small"]}, "general-fast": {"members": ["small"]}}
    known = catalog(panels=panels)
    assert known.resolve("openrouter/fusion") == Target("panel", "default")
    assert known.resolve("openrouter/fusion-flash") == Target("panel", "general-fast")
    assert catalog().resolve("openrouter/fusion") is None


def test_a_panel_answers_only_under_its_full_name() -> None:
    known = catalog(panels={"trio": {"members": ["small"]}})
    assert known.resolve("trio") is None
    assert known.resolve("fusion/trio") == Target("panel", "trio")


@pytest.mark.parametrize("name", ["", "nobody", "fusion/", "fusion/nobody", "SMALL"])
def test_a_name_that_nothing_has(name: str) -> None:
    assert catalog().resolve(name) is None


def test_a_circle_of_aliases_resolves_to_nothing_instead_of_for_ever() -> None:
    assert catalog(aliases={"a": "b", "b": "a"}).resolve("a") is None


_ALIASES = st.sampled_from(["a", "b", "c"])
_TARGETS = _ALIASES | st.sampled_from(["small", "large", "fusion/auto", "fusion/p", "nobody"])


@given(aliases=st.dictionaries(_ALIASES, _TARGETS))
@settings(max_examples=50)
def test_every_listed_name_resolves_to_what_the_list_says(aliases: dict[str, str]) -> None:
    known = catalog(aliases=aliases, panels={"p": {"members": ["small"]}})
    for name, target in known.names():
        assert known.resolve(name) == target


def test_the_names_that_a_client_sees() -> None:
    known = catalog(
        aliases={"default": "small"}, panels={"default": {"members": ["small", "large"]}}
    )
    assert dict(known.names()) == {
        "small": Target("model", "small"),
        "large": Target("model", "large"),
        "default": Target("model", "small"),
        "fusion/default": Target("panel", "default"),
        "openrouter/fusion": Target("panel", "default"),
        AUTO: Target("auto", "auto"),
        PLAN: Target("plan", "plan"),
    }


def test_only_a_model_is_behind_a_model_name() -> None:
    with pytest.raises(LookupError, match="fusion/auto"):
        catalog().model_behind(AUTO)
    with pytest.raises(LookupError, match="nobody"):
        catalog().model_behind("nobody")


def test_a_member_is_a_name_or_a_name_with_its_own_sampling() -> None:
    panel = Panel.model_validate(
        {"members": ["small", {"model": "small", "temperature": 0.9, "max_tokens": 50}]}
    )
    plain, own = panel.members
    assert plain.sampling == Sampling()
    assert own.sampling == Sampling(temperature=0.9, max_tokens=50)


def test_a_model_named_twice_is_numbered_from_its_second_place() -> None:
    panel = Panel.model_validate({"members": ["small", "large", "small", "small"]})
    assert panel.member_names == ("small", "large", "small#2", "small#3")


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=8))
def test_the_names_in_a_panel_are_all_different(members: list[str]) -> None:
    names = Panel.model_validate({"members": members}).member_names
    assert len(set(names)) == len(members)
    assert [name.partition("#")[0] for name in names] == members


@pytest.mark.parametrize("size", [0, 9])
def test_a_panel_has_one_to_eight_members(size: int) -> None:
    assert len(Panel.model_validate({"members": ["small"] * 8}).members) == 8
    with pytest.raises(ValidationError, match="members"):
        Panel.model_validate({"members": ["small"] * size})


@pytest.mark.parametrize(
    ("panel", "roles", "judge", "writer"),
    [
        ({}, {"judge": "small"}, "small", "small"),
        ({}, {"judge": "small", "synthesis": "large"}, "small", "large"),
        ({"judge": "large"}, {"judge": "small", "synthesis": "small"}, "large", "large"),
        ({"judge": "small", "synthesis": "best"}, {"judge": "small"}, "small", "large"),
    ],
)
def test_who_judges_a_panel_and_who_writes_its_answer(
    panel: dict[str, str], roles: dict[str, str], judge: str, writer: str
) -> None:
    known = catalog(
        aliases={"best": "large"}, panels={"duo": {"members": ["small"], **panel}}, roles=roles
    )
    assert known.judge_of("duo") == judge
    assert known.writer_of("duo") == writer


def test_a_subtask_goes_to_the_router_unless_the_catalog_says_else() -> None:
    subtasks = catalog(roles={"judge": "small", "subtasks": {"code": "large"}}).roles.subtasks
    assert (subtasks.code, subtasks.write) == ("large", AUTO)


def test_a_catalog_travels_between_processes_and_cannot_be_changed() -> None:
    known = catalog(aliases={"default": "small"})
    assert pickle.loads(pickle.dumps(known)) == known
    with pytest.raises(ValidationError, match="frozen"):
        known.server.port = 1  # type: ignore[misc]  # what the test is about


@pytest.mark.parametrize(
    ("fleet", "least", "said"),
    [
        (
            {"usd_per_hour": 0.5},
            0,
            r"fleet\.usd_per_hour \(0\.5\) does not pay for one .* which costs 0.8",
        ),
        (
            {"usd_per_day": 0.5},
            0,
            r"fleet\.usd_per_day \(0\.5\) does not pay for one .* which costs 0.8",
        ),
        ({"usd_per_hour": 2}, 3, r"replicas.min cost 2.4 dollars an hour.*usd_per_hour is 2"),
        ({"usd_per_day": 2}, 3, r"replicas.min cost 2.4 dollars an hour.*usd_per_day is 2"),
        ({"usd_per_hour": 0}, 0, "greater than 0"),
        ({"usd_per_day": -1}, 0, "greater than 0"),
    ],
)
def test_a_budget_below_one_replica_is_refused(fleet: Any, least: int, said: str) -> None:
    scaled = {"engine": "fake", "replicas": {"min": least, "max": 4}, "scaling": SCALING}
    with pytest.raises(ValidationError, match=said):
        catalog(models={"m": scaled}, roles={"judge": "m"}, fleet=fleet)
    catalog(models={"m": scaled}, roles={"judge": "m"}, fleet={"usd_per_hour": 2.4})


@pytest.mark.parametrize("price", [None, 0, -1, "cheap", float("inf")])
def test_a_scaled_model_has_a_price(price: Any) -> None:
    node = {"startup_s": 30} | ({} if price is None else {"usd_per_hour": price})
    with pytest.raises(ValidationError, match=r"node\.usd_per_hour"):
        catalog(
            models={"m": {"engine": "fake", "scaling": {**SCALING, "node": node}}},
            roles={"judge": "m"},
        )


def test_an_hour_of_a_replica_costs_what_its_node_does() -> None:
    own = model(engine="fake", scaling=SCALING)
    assert own.hours == {FIRST: Decimal("0.8")}
    assert model(engine="fake", scaling=SCALING, usd_per_hour=3).hours == {FIRST: 3}
    assert model(engine="fake").hours == {}


def test_a_panels_window_is_the_smallest_of_all_who_read() -> None:
    sizes = {"wide": 32_000, "narrow": 8000, "judge": 4000, "writer": 2000}
    models = {n: {"engine": "fake", "context": c, "max_output": 100} for n, c in sizes.items()}
    panels = {
        "a": {"members": ["wide", "narrow"], "judge": "wide", "synthesis": "wide"},
        "b": {"members": ["wide"], "judge": "judge", "synthesis": "wide"},
        "c": {"members": ["wide"], "judge": "wide", "synthesis": "writer"},
        "d": {"members": ["wide"], "candidates": ["narrow"], "judge": "wide"},
    }
    known = catalog(models=models, panels=panels, roles={"judge": "wide"})
    assert [known.window_of(name) for name in panels] == [8000, 4000, 2000, 8000]


@pytest.mark.parametrize(
    ("model", "options", "names"),
    [
        ("cheap", None, ("cheap",)),
        ("cheap", FusionOptions(enabled=False), ("cheap",)),
        ("cheap", FusionOptions(), ("cheap", "fusion/default")),
        ("cheap", FusionOptions(preset="dear"), ("cheap", "fusion/dear")),
        ("fusion/mine", FusionOptions(judge="j"), ("fusion/mine", "j")),
        ("openrouter/fusion", FusionOptions(), ("openrouter/fusion",)),
        ("fusion/auto", FusionOptions(), ("fusion/auto", "fusion/default")),
        ("fusion/mine", FusionOptions(preset="dear"), ("fusion/mine", "fusion/dear")),
        ("cheap", FusionOptions(analysis_models=("a", "b")), ("cheap", "a", "b")),
    ],
)
def test_names_of_a_request(
    model: str, options: FusionOptions | None, names: tuple[str, ...]
) -> None:
    assert asked_names(Request(model, (), fusion=options)) == names


def test_a_graphs_models_are_names_too() -> None:
    graph = {"subtasks": [{"model": "dear"}, {}, 3]}
    assert asked_names(Request("fusion/plan", (), plan=PlanOptions(graph=graph))) == (
        "fusion/plan",
        "dear",
    )


def test_an_address_that_cannot_be_served_is_refused() -> None:
    with pytest.raises(ValueError, match="IPv4"):
        Server(host="::1")


PLACES = {
    **SCALING,
    "node": {
        "usd_per_hour": 0.8,
        "startup_s": 30,
        "labels": {"market": "on-demand"},
        "spot": {
            "usd_per_hour": 0.3,
            "mean_life_s": 7200,
            "notice_s": 30,
            "labels": {"market": "spot"},
        },
    },
}


def placed(**changes: Any) -> dict[str, Any]:
    node = PLACES["node"]
    assert isinstance(node, dict)
    spot = {**node["spot"], **changes.pop("spot", {})}
    return {**PLACES, "node": {**node, "spot": spot, **changes.pop("node", {})}, **changes}


def test_a_model_has_a_place_for_each_market_with_labels() -> None:
    known = model(engine="fake", scaling=placed())
    assert [place.key for place in known.places] == ["node/on-demand", "node/spot"]
    assert known.hours == {"node/on-demand": Decimal("0.8"), "node/spot": Decimal("0.3")}
    unlabelled = model(engine="fake", scaling=placed(spot={"labels": {}}, node={"labels": {}}))
    assert [place.key for place in unlabelled.places] == ["node/on-demand"]


OTHER = {"name": "a10g", "usd_per_hour": 1.0, "startup_s": 30, "labels": {"gpu": "a10g"}}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"node": {"labels": {}}}, "labels of node/on-demand .* also those of node/spot"),
        ({"spot": {"labels": {"market": "on-demand"}}}, "its replicas would land on"),
        (
            {"spot": {"labels": {"market": "on-demand", "zone": "a"}}},
            "labels of node/on-demand .* also those of node/spot",
        ),
        ({"spot": {"labels": {"market": "a b"}}}, r"spot\.labels\.market"),
        ({"spot": {"labels": {}, "notice": "aws"}}, "notice needs labels"),
        ({"spot": {"notice": "azure"}}, r"spot\.notice"),
        ({"other_nodes": [OTHER, OTHER]}, "not twice 'a10g'"),
        ({"other_nodes": [{**OTHER, "name": "node"}]}, "not twice 'node'"),
        ({"other_nodes": [{**OTHER, "name": "A 10"}]}, r"other_nodes\.0\.name"),
        ({"on_demand_floor": 1.1}, "on_demand_floor"),
        ({"priority": 0}, "priority"),
    ],
)
def test_places_that_cannot_be_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        model(engine="fake", scaling=placed(**wrong))


def test_each_of_several_places_has_its_price_and_the_fleet_pays_for_it() -> None:
    with pytest.raises(ValidationError, match="usd_per_hour: in each of its places"):
        model(engine="fake", scaling=placed(), usd_per_hour=3)
    dear = {"engine": "fake", "scaling": placed(other_nodes=[{**OTHER, "usd_per_hour": 9}])}
    with pytest.raises(ValidationError, match="which costs 9 an hour"):
        catalog(models={"m": dear}, roles={"judge": "m"}, fleet={"usd_per_hour": 2})


def test_what_is_not_a_models_stays_off_spot_nodes() -> None:
    def selector(*nodes: dict[str, Any]) -> dict[str, str]:
        hosts = {f"m{n}": {"engine": "fake", "scaling": node} for n, node in enumerate(nodes)}
        return off_spot(catalog(models=hosts, roles={"judge": "m0"}))

    zone = {"market": "on-demand", "zone": "a"}
    assert selector(SCALING) == {}
    assert selector(placed()) == {"market": "!spot"}
    # A label that nodes on demand have as well says nothing.
    assert selector(
        placed(node={"labels": zone}, spot={"labels": {**zone, "market": "spot"}}),
        placed(spot={"labels": {"market": "preemptible"}}),
    ) == {"market": "!in(preemptible, spot)"}
