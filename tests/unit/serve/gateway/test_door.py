"""The door over ASGI, with a fake model behind it and no Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect, HTTPConnection, Request

from models.answerer import SystemClock
from models.catalog import Catalog
from models.errors import (
    BadRequest,
    Conflict,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    Unavailable,
    UpstreamError,
)
from models.fake import FakeModel
from models.messages import Completion
from serve.access.caller import Caller
from serve.dialects import chat
from serve.editions.edition import Edition, Fixed
from serve.gateway import body
from serve.gateway import door as doors
from serve.gateway import watch as watches
from serve.gateway.count import TokenCount
from serve.gateway.door import Door
from serve.gateway.rooms.names import Names
from serve.gateway.rooms.vitals import Vitals
from serve.gateway.site import site
from serve.gateway.watch import Watch

CATALOG = Catalog.model_validate(
    {
        "server": {"max_body_mb": 0.001},
        "models": {"m": {"engine": "fake"}},
        "aliases": {"a": "m"},
        "panels": {"p": {"members": ["m"]}},
        "roles": {"judge": "m"},
    }
)
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Recorder:
    def __init__(self) -> None:
        self.statuses: list[tuple[str, int]] = []

    def served(self, model: str, status: int, seconds: float) -> None:
        self.statuses.append((model, status))

    def first_token(self, model: str, seconds: float) -> None: ...

    def answered(self, completion: Completion) -> None: ...


async def everybody(_: HTTPConnection) -> Caller:
    return Caller()


async def nobody_counts(_: Catalog, __: object) -> None:
    return None


class House:
    """A door with one model behind it, and a client in front."""

    def __init__(self, model: FakeModel, catalog: Catalog) -> None:
        async def health() -> tuple[int, dict[str, Any]]:
            return 503, {"status": "down"}

        async def metrics() -> str:
            return "numbers 1\n"

        self.recorder = Recorder()
        self.model = model
        self.door = Door(
            Fixed(Edition(catalog, model, model)), self.recorder, SystemClock(), Watch(self.still)
        )
        rooms = [
            self.door,
            TokenCount(self.door.editions, nobody_counts),
            Names(self.door.editions),
            Vitals(health, metrics),
        ]
        self.welcome = True
        transport = httpx.ASGITransport(app=site(rooms, everybody))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://door")

    async def still(self, _: Caller) -> bool:
        return self.welcome

    def answer_with(self, model: FakeModel) -> None:
        self.door.editions = Fixed(Edition(CATALOG, model, model))


@pytest.fixture
async def house() -> AsyncIterator[Any]:
    opened: list[House] = []

    def open_house(catalog: Catalog = CATALOG, **model: Any) -> House:
        opened.append(House(FakeModel("m", **model), catalog))
        return opened[-1]

    yield open_house
    for one in opened:
        await one.client.aclose()


def events(text: str) -> list[Any]:
    return [
        json.loads(line[6:])
        for line in text.splitlines()
        if line.startswith("data: ") and line != "data: [DONE]"
    ]


async def test_a_whole_answer_is_counted(house: Any) -> None:
    here = house(reply="hi")
    response = await here.client.post("/v1/chat/completions", json=HELLO)
    assert response.json()["choices"][0]["message"]["content"] == "hi"
    assert here.recorder.statuses == [("m", 200)]


async def test_a_body_above_the_limit_is_413(house: Any) -> None:
    here = house()
    response = await here.client.post("/v1/chat/completions", content=b"x" * 2000)
    assert response.status_code == 413
    # A name that nobody defined must not become a time series.
    assert here.recorder.statuses == [("unknown", 413)]


async def test_retry_after_is_in_whole_seconds(house: Any) -> None:
    here = house(reply=Overloaded("full", retry_after_s=1.2))
    for stream in (False, True):
        response = await here.client.post("/v1/chat/completions", json=HELLO | {"stream": stream})
        assert (response.status_code, response.headers["retry-after"]) == (429, "2")
        assert response.json()["error"]["code"] == "overloaded"


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (UpstreamError("x"), "false"),
        (DeadlineExceeded("x"), "false"),
        (Conflict("x"), "false"),
        (Unavailable("x"), None),
        (Overloaded("x"), None),
        (BadRequest("x"), None),
    ],
)
async def test_a_client_is_told_not_to_repeat_what_may_be_paid_for(
    house: Any, error: FusionError, word: str | None
) -> None:
    """The official ones repeat a 409 and every 5xx twice, unasked."""
    response = await house(reply=error).client.post("/v1/chat/completions", json=HELLO)
    assert response.status_code == error.status
    assert response.headers.get("x-should-retry") == word


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages/count_tokens"])
async def test_a_body_that_drips_gives_its_place_back(house: Any, path: str) -> None:
    hasty = CATALOG.server.model_copy(update={"request_timeout_s": 0.1})
    here = house(catalog=CATALOG.model_copy(update={"server": hasty}))

    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    response = await asyncio.wait_for(here.client.post(path, content=drip()), 5)
    assert (response.status_code, here.door.open) == (504, 0)


async def test_the_body_of_any_room_may_not_drip() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    http = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)
    with pytest.raises(DeadlineExceeded):
        await body.read(http, within_s=0.1)


async def test_a_wrong_method_is_told_the_right_one(house: Any) -> None:
    response = await house().client.get("/v1/chat/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_an_error_in_mid_stream_is_an_event_and_no_done(house: Any) -> None:
    class Breaking(FakeModel):
        async def stream(self, request: Any, call: Any) -> Any:
            async for event in FakeModel("m", "one two").stream(request, call):
                yield event
                raise Unavailable("gone")

    here = house()
    here.answer_with(Breaking("m"))
    response = await here.client.post("/v1/chat/completions", json=HELLO | {"stream": True})
    assert response.status_code == 200
    assert "[DONE]" not in response.text
    assert events(response.text)[-1]["error"]["message"] == "gone"
    assert here.recorder.statuses == [("m", 503)]


async def test_a_bug_ends_the_stream_with_an_error_too(house: Any) -> None:
    class Buggy(FakeModel):
        async def stream(self, request: Any, call: Any) -> Any:
            yield (await anext(FakeModel("m", "one two").stream(request, call)))
            raise KeyError("secret")

    here = house()
    here.answer_with(Buggy("m"))
    response = await here.client.post("/v1/chat/completions", json=HELLO | {"stream": True})
    assert events(response.text)[-1]["error"]["message"] == "Internal error: KeyError."
    assert "secret" not in response.text


async def test_a_silent_stream_says_that_it_lives(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "HEARTBEAT_S", 0.05)
    here = house(reply="late", first_token_s=0.4)
    response = await here.client.post("/v1/chat/completions", json=HELLO | {"stream": True})
    assert response.text.count(": still working") >= 2
    assert events(response.text)[1]["choices"][0]["delta"]["content"] == "late"


async def test_names_are_shown_with_what_they_stand_for(house: Any) -> None:
    here = house()
    alias = (await here.client.get("/v1/models/a")).json()
    assert (alias["kind"], alias["model"], alias["tier"]) == ("alias", "m", "workforce")
    panel = (await here.client.get("/v1/models/fusion/p")).json()
    assert (panel["id"], panel["kind"]) == ("fusion/p", "panel")
    unknown = await here.client.get("/v1/models/x")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_whole_request_is_cancelled_when_its_task_is(house: Any) -> None:
    here = house(reply="x", first_token_s=5)
    task = asyncio.create_task(here.client.post("/v1/chat/completions", json=HELLO))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.05)
    assert here.model.cancelled == 1
    assert here.recorder.statuses == [("m", 499)]


async def test_a_stream_whose_client_leaves_before_the_first_byte_is_closed(house: Any) -> None:
    here = house(reply="one two three", token_s=60)
    body = json.dumps(HELLO | {"stream": True}).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        raise OSError("gone")

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [],
        "query_string": b"",
        "asgi": {"spec_version": "2.4"},
    }
    http = Request(scope, receive)
    response = await here.door.answer(chat, http)
    with pytest.raises(ClientDisconnect):
        await response(scope, receive, send)
    assert here.model.cancelled == 1
    assert here.door.open == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_the_deadline_stands_around_everything(house: Any, stream: bool) -> None:
    here = house(reply="late", first_token_s=30)
    asked = HELLO | {"stream": stream, "fusion": {"deadline_s": 0.1}}
    response = await here.client.post("/v1/chat/completions", json=asked)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert here.model.cancelled == 1


async def test_a_stream_that_breaks_off_says_so(house: Any) -> None:
    class Short(FakeModel):
        async def stream(self, request: Any, call: Any) -> Any:
            yield (await anext(FakeModel("m", "one two").stream(request, call)))

    here = house()
    here.answer_with(Short("m"))
    response = await here.client.post("/v1/chat/completions", json=HELLO | {"stream": True})
    assert "broke off" in events(response.text)[-1]["error"]["message"]


async def test_a_full_gateway_says_when_to_come_back(house: Any) -> None:
    here = house()
    here.door.open = CATALOG.server.max_concurrent
    response = await here.client.post("/v1/chat/completions", json=HELLO)
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert here.door.open == CATALOG.server.max_concurrent


async def test_a_fusion_of_another_server_counts_as_one(house: Any) -> None:
    here = house()
    await here.client.post(
        "/v1/chat/completions", json=HELLO, headers={"x-openrouter-fusion-depth": "1"}
    )
    [(_, call)] = here.model.calls
    assert call.fusion_depth == 1


@pytest.mark.parametrize("depth", ["9" * 5000, "-1", "1.5", "²", "", "one"])
async def test_a_depth_that_is_no_small_number_is_a_400(house: Any, depth: str) -> None:
    here = house()
    response = await here.client.post(
        "/v1/chat/completions",
        json=HELLO,
        headers={"x-openrouter-fusion-depth": depth.encode("latin-1")},
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-openrouter-fusion-depth"


async def test_a_stream_ends_when_its_key_does(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "STILL_S", 0.02)
    here = house(reply="one two three", token_s=0.2)
    asking = asyncio.create_task(
        here.client.post("/v1/chat/completions", json=HELLO | {"stream": True})
    )
    await asyncio.sleep(0.1)
    here.welcome = False
    told = events((await asking).text)
    assert told[-1]["error"]["code"] == "invalid_api_key"
    assert here.recorder.statuses == [("m", 401)]
    assert (here.model.cancelled, here.door.open) == (1, 0)


async def test_one_watch_for_all_streams_and_none_without(house: Any) -> None:
    here = house(reply="one two", token_s=0.1)
    before = len(asyncio.all_tasks())
    asked = HELLO | {"stream": True}
    asking = [
        asyncio.create_task(here.client.post("/v1/chat/completions", json=asked)) for _ in range(20)
    ]
    await asyncio.sleep(0.05)
    # The server's own: the request, its stream, who listens for the end, and one feed.
    assert len(asyncio.all_tasks()) - before <= 20 * 4 + 1
    await asyncio.gather(*asking)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before


async def test_requests_that_a_client_names_alike_are_two(house: Any) -> None:
    here = house(reply="hi")
    same = {"x-request-id": "same-name-1"}
    ids = [
        (await here.client.post("/v1/chat/completions", json=HELLO, headers=same)).json()["id"]
        for _ in range(2)
    ]
    assert len(set(ids)) == 2
    assert all(one.startswith("chatcmpl-same-name-1-") for one in ids)


def test_two_rooms_of_one_address_are_a_mistake() -> None:
    async def health() -> tuple[int, dict[str, Any]]:
        return 200, {}

    async def metrics() -> str:
        return ""

    with pytest.raises(ValueError, match="healthz"):
        site([Vitals(health, metrics), Vitals(health, metrics)], everybody)
