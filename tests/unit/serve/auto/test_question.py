"""What may be chosen for a request, by the catalog and by what the request says."""

from __future__ import annotations

from typing import Any

import pytest

from models.catalog import Catalog
from models.messages import Request, ResponseFormat, RouteOptions, Sampling, Tool, user
from serve.auto.question import question
from serve.money.bound import input_tokens


def catalog(models: dict[str, Any], **more: Any) -> Catalog:
    return Catalog.model_validate(
        {"models": models, "roles": {"judge": next(iter(models))}, **more}
    )


def asked(text: str = "hello", **options: Any) -> Request:
    return Request("fusion/auto", (user(text),), **options)


@pytest.mark.parametrize(
    ("name", "spec", "low", "high"),
    [
        ("qwen3-8b", {"engine": "vllm", "source": "Qwen/Qwen3-8B"}, 0.3, 0.5),
        ("small", {"engine": "vllm", "source": "HuggingFaceTB/SmolLM2-135M"}, 0.0, 0.1),
        ("mystery", {"engine": "fake"}, 0.3, 0.3),
        ("dear", {"engine": "openai", "price": {"input": 5, "output": 25}}, 0.9, 1.0),
        ("cheap", {"engine": "openai", "price": {"input": 0.1, "output": 0.4}}, 0.2, 0.5),
    ],
)
def test_strength_is_by_price_or_by_size(
    name: str, spec: dict[str, Any], low: float, high: float
) -> None:
    (one,) = question(asked(), catalog({name: spec})).candidates
    assert low <= one.strength <= high


def test_costs_are_of_this_request() -> None:
    models = {"api": {"engine": "openai", "price": {"input": 1, "output": 10}, "max_output": 4096}}
    short = question(asked(sampling=Sampling(max_tokens=10)), catalog(models)).candidates[0]
    long = question(asked("word " * 4_000), catalog(models)).candidates[0]
    assert short.cost is not None and long.cost is not None and long.most is not None
    assert long.cost > short.cost
    # Nobody counts its tokens beforehand, so the most that it may cost is by its bytes.
    assert long.most == pytest.approx(20_000e-6 + 4096 * 10e-6, rel=0.01)
    free = question(asked(), catalog({"own": {"engine": "fake"}})).candidates[0]
    assert (free.cost, free.most) == (0.0, 0.0)
    dark = question(asked(), catalog({"dark": {"engine": "openai"}})).candidates[0]
    assert (dark.cost, dark.most) == (None, None)


def test_what_the_catalog_tells_of_a_model() -> None:
    models = {
        "mine": {"engine": "openai", "upstream": "openai/gpt-4-1106"},
        "own": {"engine": "fake"},
    }
    rules = {"router": {"models": {"own": {"known_as": "mixtral-8x7b", "strength": 0.6}}}}
    mine, own = question(asked(), catalog(models, **rules)).candidates
    assert mine.known_as == "openai/gpt-4-1106"
    assert (own.known_as, own.strength) == ("mixtral-8x7b", 0.6)


def test_looks_fit_the_request() -> None:
    known = catalog({"m": {"engine": "fake", "tools": True}})
    assert question(asked(), known).looks == ("finished", "sums", "agrees")
    shaped = asked(response_format=ResponseFormat("json_object"))
    assert question(shaped, known).looks == ("finished", "valid", "agrees")
    assert question(asked(tools=(Tool("look"),)), known).looks == ()
    telling = catalog({"m": {"engine": "vllm", "source": "a/b"}})
    assert question(asked(), telling).looks == ("finished", "sums", "confident", "agrees")


def test_a_knob_by_hand_comes_before_the_catalogs_share() -> None:
    known = catalog({"m": {"engine": "fake"}}, router={"flagship_share": 0.2})
    assert question(asked(), known).objective.share == 0.2
    assert question(asked(route=RouteOptions(quality=0.9)), known).objective.share is None
    assert question(asked(route=RouteOptions(flagship_share=0.5)), known).objective.share == 0.5


def test_panels_are_those_that_the_catalog_names() -> None:
    models = {"a": {"engine": "fake"}, "b": {"engine": "fake"}}
    panels = {"pair": {"members": ["a", "b"]}, "alone": {"members": ["a"]}}
    known = catalog(models, panels=panels, router={"panels": ["pair", "alone"]})
    (panel,) = question(asked(), known).menu.panels
    assert (panel.name, panel.models) == ("pair", ("a", "b"))


WINDOWS = {
    "narrow": {"engine": "fake", "context": 512, "max_output": 64},
    "wide": {"engine": "fake", "context": 4096, "max_output": 64},
}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("hello", ["narrow", "wide"]),
        ("word " * 1_000, ["wide"]),
        ("问" * 600, ["wide"]),
        ("a" * 600, ["narrow", "wide"]),
        ("word " * 100_000, ["wide"]),  # it is refused there, with words of its own
    ],
)
def test_who_cannot_hold_the_prompt_is_no_candidate(text: str, names: list[str]) -> None:
    found = question(asked(text), catalog(WINDOWS))
    assert [one.name for one in found.candidates] == names


def test_whoever_is_affordable_is_not_refused_by_the_till() -> None:
    """The most that the router expects is what is set aside before the call."""
    known = catalog({"api": {"engine": "openai", "price": {"input": 2, "output": 10}}})
    request = asked("这是一个问题 and more " * 50)
    most = question(request, known).candidates[0].most
    spec = known.models["api"]
    assert spec.price is not None and most is not None
    reserved = spec.price.worst(input_tokens(request, spec.image_tokens), spec.max_output)
    assert most == reserved / 1e9
