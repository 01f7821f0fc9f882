"""Sessions, approvals and idempotency as a client meets them: HTTP in, HTTP out, no Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from doorway import Silence
from guarded import Guarded, store
from starlette.requests import HTTPConnection

from models.answerer import SystemClock
from serve.access.caller import Caller
from serve.control.entrance import Entrance
from serve.control.idempotency import Idempotent
from serve.control.policy.catalog import rules
from serve.control.sessions.memory import StoredAnswers
from serve.control.sessions.remembering import Remembering
from serve.control.sessions.store import Sessions
from serve.editions.edition import Edition, Fixed
from serve.gateway.door import Door
from serve.gateway.rooms.approvals import ApprovalsRoom
from serve.gateway.rooms.responses import ResponsesRoom
from serve.gateway.rooms.sessions import SessionsRoom
from serve.gateway.site import site
from serve.gateway.watch import Watch
from serve.store.database import Database


class House:
    """One gateway: policies, sessions and idempotency before the models of a `Guarded`."""

    def __init__(self, database: Database, policies: dict[str, Any]) -> None:
        clock = SystemClock()
        self.process = process = Guarded(database, policies, clock=clock)
        sessions = Sessions(database, clock)
        inner = Remembering(process.models, process.catalog, process.models, sessions)
        entrance = Entrance(
            inner, process.catalog, rules(process.catalog.policies), process.control
        )
        pipeline = Idempotent(entrance, database, clock)
        self.edition = Edition(process.catalog, process.models, pipeline)
        fixed = Fixed(self.edition)

        async def guard(_: HTTPConnection) -> Caller:
            return Caller()

        async def still(_: Caller) -> bool:
            return True

        answers = StoredAnswers(database, clock)
        door = Door(fixed, Silence(), clock, Watch(still), answers)
        rooms = [
            door,
            ApprovalsRoom(process.control, fixed),
            SessionsRoom(sessions),
            ResponsesRoom(answers),
        ]
        transport = httpx.ASGITransport(app=site(rooms, guard))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://door")

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, json=body, headers=named)

    async def session(self) -> str:
        made = await self.post("/v1/sessions", {})
        assert made.status_code == 201
        return str(made.json()["id"])


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with store(tmp_path) as made:
        yield made


def chat(text: str, model: str = "m", **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 1,
        **more,
    }


async def test_a_session_goes_through_three_dialects_and_two_models(database: Database) -> None:
    house = House(database, {})
    session = await house.session()
    for path, body in (
        ("/v1/chat/completions", chat("one")),
        ("/v1/responses", {"model": "small", "input": "two"}),
        ("/v1/messages", chat("three")),
    ):
        answer = await house.post(path, body, x_session_id=session)
        assert answer.status_code == 200, answer.text
    last, _ = house.process.model.calls[-1]
    assert [message.text for message in last.messages] == ["one", "ok", "two", "ok", "three"]
    by_body = chat("four", fusion={"session_id": session})
    assert (await house.post("/v1/chat/completions", by_body)).status_code == 200
    items = (await house.client.get(f"/v1/sessions/{session}/items")).json()["data"]
    assert [item["message"]["role"] for item in items] == ["user", "assistant"] * 4


async def test_a_response_is_gone_on_from(database: Database) -> None:
    house = House(database, {})
    first = (await house.post("/v1/responses", {"model": "m", "input": "one"})).json()
    again = {"model": "m", "input": "two", "previous_response_id": first["id"]}
    assert (await house.post("/v1/responses", again)).status_code == 200
    last, _ = house.process.model.calls[-1]
    assert [message.text for message in last.messages] == ["one", "ok", "two"]


async def test_a_response_is_forgotten_on_request(database: Database) -> None:
    house = House(database, {})
    first = (await house.post("/v1/responses", {"model": "m", "input": "one"})).json()["id"]
    gone = await house.client.delete(f"/v1/responses/{first}")
    assert (gone.status_code, gone.json()["deleted"], gone.json()["id"]) == (200, True, first)
    again = {"model": "m", "input": "two", "previous_response_id": first}
    assert (await house.post("/v1/responses", again)).status_code == 404
    assert (await house.client.delete(f"/v1/responses/{first}")).status_code == 404


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_freeze_restart_approve_continue(database: Database, path: str) -> None:
    """The whole way of a frozen session, with a restart in the middle and the same key after."""
    freeze = {"budget": {"kind": "spend", "limit_usd": 1}}
    house = House(database, freeze)
    session = await house.session()
    assert (await house.post(path, chat("one"), x_session_id=session)).status_code == 200

    keyed = {"x_session_id": session, "idempotency_key": "k1"}
    frozen = await house.post(path, chat("two"), **keyed)
    assert frozen.status_code == 402
    (pending,) = (await house.client.get("/v1/approvals?state=pending")).json()["data"]
    assert pending["id"] in frozen.text
    assert pending["session"] == session

    house = House(database, freeze)  # the gateway died and came back
    yes = await house.post(f"/v1/approvals/{pending['id']}", {"decision": "approve", "ceiling": 5})
    assert yes.status_code == 200
    assert await house.process.control.parking.run_one(house.edition)
    again = await house.post(path, chat("two"), **keyed)
    assert again.status_code == 200
    assert len(house.process.model.calls) == 1  # the parked one; the repetition asked nobody
    items = (await house.client.get(f"/v1/sessions/{session}/items")).json()["data"]
    told = [item["message"]["content"][0]["text"] for item in items]
    assert told == ["one", "ok", "two", "ok"]


async def test_a_stream_in_a_frozen_session_is_a_402(database: Database) -> None:
    house = House(database, {"none": {"kind": "size", "max_prompt_chars": 1, "then": "ask"}})
    answer = await house.post("/v1/chat/completions", chat("hello", stream=True))
    assert answer.status_code == 402
    assert answer.json()["error"]["approval"].startswith("apv_")


async def test_a_denied_request_says_by_which_rule(database: Database) -> None:
    house = House(database, {"short": {"kind": "size", "max_prompt_chars": 1}})
    answer = await house.post("/v1/chat/completions", chat("hello"))
    assert answer.status_code == 403
    assert "'short'" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("header", "value"),
    [("x_session_id", "a b"), ("idempotency_key", "x" * 256), ("x_approval_wait_s", "soon")],
)
async def test_headers_that_say_nothing(database: Database, header: str, value: str) -> None:
    answer = await House(database, {}).post("/v1/chat/completions", chat("x"), **{header: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == header.replace("_", "-")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/sessions/ses_no", None, 404),
        ("DELETE", "/v1/sessions/ses_no", None, 404),
        ("POST", "/v1/sessions", {"items": [{"role": "god"}]}, 400),
        ("POST", "/v1/sessions", {"owner": "me"}, 400),
        ("GET", "/v1/sessions?limit=9999", None, 400),
        ("POST", "/v1/sessions/import", {}, 400),
    ],
)
async def test_bad_input(
    database: Database, method: str, path: str, body: Any, status: int
) -> None:
    house = House(database, {})
    answer = await house.client.request(method, path, json=body)
    assert answer.status_code == status


async def test_a_session_over_http(database: Database) -> None:
    house = House(database, {})
    session = await house.session()
    path = f"/v1/sessions/{session}"
    say = {"items": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert (await house.post(f"{path}/items", say)).json()["length"] == 2
    items = (await house.client.get(f"{path}/items")).json()["data"]
    fork = (await house.post(f"{path}/fork", {"item": items[0]["id"], "name": "F"})).json()
    assert (fork["length"], fork["parent"]) == (1, session)
    exported = (await house.client.get(f"{path}/export")).content
    made = await house.client.post("/v1/sessions/import", content=exported)
    assert made.json()["length"] == 2
    changed = await house.client.patch(path, json={"archived": True})
    assert changed.json()["archived"]
    assert (await house.post(f"{path}/items", say)).status_code == 409
    assert (
        await house.post("/v1/chat/completions", chat("x"), x_session_id=session)
    ).status_code == 409
    listed = (await house.client.get("/v1/sessions")).json()["data"]
    assert {one["id"] for one in listed} == {fork["id"], made.json()["id"]}
    assert (await house.client.delete(path)).status_code == 204
    assert (await house.client.get(path)).status_code == 404
