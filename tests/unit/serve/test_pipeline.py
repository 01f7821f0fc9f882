"""From a name to whatever answers."""

from __future__ import annotations

import json

import pytest

from models.call import Call
from models.catalog import Catalog
from models.errors import ModelNotFound, Unsupported
from models.fake import FakeModel
from models.messages import Request, RouteOptions, Tool, user
from router.live import Plan, Question, blind
from serve.fusion.contract import Analysis
from serve.fusion.judge import ModelJudge
from serve.pipeline import Models, Pipeline

CATALOG = Catalog.model_validate(
    {
        "models": {
            "small": {"engine": "fake", "price": {"input": 1, "output": 1}},
            "large": {"engine": "fake", "price": {"input": 9, "output": 9}},
        },
        "aliases": {"brain": "large", "default": "brain"},
        "panels": {"pair": {"members": ["small", "default"]}},
        "roles": {"judge": "brain"},
    }
)


class LocalRouter:
    async def decide(self, question: Question) -> Plan:
        assert question.prompt == "hello"
        return blind(question)


def pipeline() -> tuple[Pipeline, dict[str, FakeModel]]:
    empty = json.dumps({key: [] for key in Analysis.model_fields})
    fakes = {name: FakeModel(name, f"I am {name}") for name in CATALOG.models}
    fakes["large"].reply = lambda request: empty if request.response_format else "I am large"
    models = Models(CATALOG, fakes)
    return Pipeline(CATALOG, models, ModelJudge(models), LocalRouter()), fakes


async def ask(name: str) -> tuple[str, str]:
    answer = await pipeline()[0].complete(Request(name, (user("hello"),)), Call())
    return answer.model, answer.text


async def test_a_model_and_an_alias_of_an_alias_answer_as_themselves() -> None:
    assert await ask("small") == ("small", "I am small")
    assert await ask("default") == ("large", "I am large")


async def test_a_panel_asks_members_by_alias_too() -> None:
    whole, fakes = pipeline()
    answer = await whole.complete(Request("fusion/pair", (user("hello"),)), Call())
    assert answer.model == "large"
    assert [call.role for _, call in fakes["small"].calls] == ["panelist"]
    roles = [call.role for _, call in fakes["large"].calls]
    assert roles == ["panelist", "judge", "synthesis"]


async def test_auto_answers_with_what_the_router_chose_and_says_why() -> None:
    whole, _ = pipeline()
    cheap = RouteOptions(quality=0.0)
    answer = await whole.complete(Request("fusion/auto", (user("hello"),), route=cheap), Call())
    assert answer.model == "small"
    assert answer.extension["route"]["model"] == "small"
    assert answer.extension["route"]["why"].startswith("the cheapest")


@pytest.mark.parametrize("name", ["nobody", "fusion/nobody", ""])
async def test_a_name_that_nobody_defined(name: str) -> None:
    with pytest.raises(ModelNotFound, match="GET /v1/models"):
        await ask(name)


async def test_streams_go_the_same_ways() -> None:
    for name, text in (("small", "I am small"), ("fusion/pair", "I am large")):
        whole, _ = pipeline()
        events = [event async for event in whole.stream(Request(name, (user("hello"),)), Call())]
        assert events[-1].completion.text == text  # type: ignore[union-attr]


async def test_a_fusion_whose_writer_cannot_call_tools_is_refused_before_it_costs() -> None:
    whole, fakes = pipeline()
    request = Request("fusion/pair", (user("hello"),), tools=(Tool("look"),))
    with pytest.raises(Unsupported, match="does not take tools"):
        await whole.complete(request, Call())
    assert not any(fake.calls for fake in fakes.values())


async def test_auto_does_not_choose_what_cannot_do_it() -> None:
    whole, _ = pipeline()
    request = Request("fusion/auto", (user("hello"),), tools=(Tool("look"),))
    with pytest.raises(Unsupported, match="No model of the catalog"):
        await whole.complete(request, Call())
