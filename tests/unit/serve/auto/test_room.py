"""The router over HTTP: a dry run, feedback, export and reset."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import HTTPConnection

from models.answerer import SystemClock
from models.call import Call
from models.catalog import Catalog
from models.fake import FakeModel
from models.messages import Request, user
from router.gain import GainModel
from router.live import LiveRouter, Plan, Question
from serve.access.caller import Caller
from serve.auto.mind import Mind
from serve.auto.notebook import Notebook
from serve.editions.edition import Edition, Fixed
from serve.fusion.judge import ModelJudge
from serve.gateway.rooms.router import RouterRoom
from serve.gateway.site import site
from serve.pipeline import Models, Pipeline
from serve.store.database import Database

HARD = "What is 31 times 44, plus 12?"


class Local:
    """The router of this process, with the faces of a deployment."""

    def __init__(self, mind: Mind) -> None:
        self.mind = mind

    async def decide(self, question: Question) -> Plan:
        return await self.mind.decide(question)

    async def status(self) -> dict[str, Any]:
        return self.mind.status()

    async def state(self) -> dict[str, Any]:
        return self.mind.state()

    async def replace(self, state: dict[str, Any] | None) -> None:
        await self.mind.replace(state)


class House:
    def __init__(self, catalog: Catalog, weights: GainModel, database: Database) -> None:
        clock = SystemClock()
        notebook = Notebook(database, clock)
        self.local = Local(Mind(LiveRouter(weights), notebook, clock))
        self.fakes = {name: FakeModel(name, f"I am {name}") for name in catalog.models}
        models = Models(catalog, self.fakes)
        self.pipeline = Pipeline(
            catalog, models, ModelJudge(models), self.local, clock, routes=notebook.answered
        )
        self.caller = Caller(project="mine")

        async def guard(_: HTTPConnection) -> Caller:
            return self.caller

        editions = Fixed(Edition(catalog, models, self.pipeline))
        transport = httpx.ASGITransport(site([RouterRoom(editions, self.local, notebook)], guard))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://house")

    async def post(self, path: str, **body: Any) -> tuple[int, Any]:
        response = await self.client.post(path, json=body)
        return response.status_code, response.json()


@pytest.fixture
async def house(catalog: Catalog, weights: GainModel, database: Database) -> AsyncIterator[House]:
    made = House(catalog, weights, database)
    yield made
    await made.client.aclose()


async def test_a_dry_run_explains_and_spends_nothing(house: House) -> None:
    status, told = await house.post("/v1/route", prompt=HARD)
    assert status == 200
    assert told["models"][-1] == "large"
    assert {one["model"] for one in told["candidates"]} == {"small", "large"}
    for one in told["candidates"]:
        assert one["interval"][0] <= one["quality"] <= one["interval"][1]
        assert one["cost_usd"] is not None
    assert {"one", "cascade"} == {option["kind"] for option in told["options"]}
    assert told["why"]
    assert not any(fake.calls for fake in house.fakes.values())


async def test_a_dry_run_takes_a_whole_chat_request_and_its_knob(house: House) -> None:
    messages = [{"role": "user", "content": HARD}]
    status, told = await house.post("/v1/route", messages=messages, fusion={"quality": 0.0})
    assert (status, told["models"]) == (200, ["small"])
    status, told = await house.post("/v1/route", prompt=HARD, max_usd=0.0000001, quality=1.0)
    assert (status, told["models"]) == (200, ["small"])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": 3},
        {"prompt": "x", "quality": 2},
        {"prompt": "x", "unknown": 1},
        {"messages": []},
    ],
)
async def test_a_dry_run_of_nonsense(house: House, body: dict[str, Any]) -> None:
    status, told = await house.post("/v1/route", **body)
    assert status == 400
    assert told["error"]["message"]


async def test_feedback_is_taken_once_and_learned_from(house: House) -> None:
    call = Call(id="req_12345678", project="mine")
    answer = await house.pipeline.complete(Request("fusion/auto", (user(HARD),)), call)
    given = {"id": "chatcmpl-req_12345678", "thumb": "down"}
    status, told = await house.post("/v1/feedback", **given)
    assert (status, told["model"], told["score"]) == (200, answer.model, 0.0)
    status, told = await house.post("/v1/feedback", **given)
    assert (status, told["error"]["code"]) == (409, "conflict")
    assert "'chatcmpl-req_12345678' was judged already" in told["error"]["message"]
    await house.local.mind.refresh()
    assert house.local.mind.status()["judgements"] >= 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"id": "chatcmpl-req_unknown1", "score": 1.0}, 404),
        ({"id": "req_12345678", "score": 1.5}, 400),
        ({"id": "req_12345678", "score": -0.1}, 400),
        ({"id": "req_12345678"}, 400),
        ({"id": "req_12345678", "score": 1.0, "thumb": "up"}, 400),
        ({"id": "req_12345678", "thumb": "sideways"}, 400),
        ({"score": 1.0}, 400),
    ],
)
async def test_feedback_that_is_not_taken(house: House, body: dict[str, Any], status: int) -> None:
    found, told = await house.post("/v1/feedback", **body)
    assert (found, bool(told["error"]["message"])) == (status, True)


async def test_an_unknown_answer_is_named_as_the_caller_named_it(house: House) -> None:
    _, told = await house.post("/v1/feedback", id="chatcmpl-req_unknown1", score=1.0)
    assert "'chatcmpl-req_unknown1'" in told["error"]["message"]


async def test_foreign_answers_are_not_there(house: House) -> None:
    call = Call(id="req_12345678", project="theirs")
    await house.pipeline.complete(Request("fusion/auto", (user(HARD),)), call)
    status, _ = await house.post("/v1/feedback", id="req_12345678", score=1.0)
    assert status == 404


async def test_what_was_learned_goes_out_and_comes_back(house: House) -> None:
    state = (await house.client.get("/v1/router/state")).json()
    assert (await house.client.put("/v1/router/state", json=state)).status_code == 200
    assert (await house.client.delete("/v1/router/state")).status_code == 200
    assert (await house.client.put("/v1/router/state", json={"format": 9})).status_code == 400
    assert (await house.client.put("/v1/router/state", content=b"[]")).status_code == 400
    shown = (await house.client.get("/v1/router")).json()
    assert shown["known_models"] == ["large", "small"]
    house.caller = Caller(project="mine", scopes=frozenset(("use",)))
    for method, path in (("GET", "/v1/router"), ("DELETE", "/v1/router/state")):
        assert (await house.client.request(method, path)).status_code == 403
