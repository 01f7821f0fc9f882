"""Approvals and the audit log over HTTP, and `fusion policy explain`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from guarded import HELLO, IN_SESSION, Guarded, store
from starlette.requests import HTTPConnection
from typer.testing import CliRunner

from models.errors import ApprovalNeeded
from serve.access.caller import Caller
from serve.cli import app
from serve.dialects import errors
from serve.editions.edition import Edition, Fixed
from serve.gateway.rooms.approvals import ApprovalsRoom
from serve.gateway.site import site

FREEZE = {"budget": {"kind": "spend", "limit_usd": 1}}
CALLERS = {
    "ada": Caller("default", "ada", frozenset({"use", "approve"})),
    "bob": Caller("default", "bob", frozenset({"use"})),
    "eve": Caller("another", "eve", frozenset({"use", "approve"})),
    "root": Caller("another", "root", frozenset({"admin"})),
}


class House:
    def __init__(self, process: Guarded) -> None:
        async def guard(request: HTTPConnection) -> Caller:
            return CALLERS[request.headers["who"]]

        edition = Edition(process.catalog, process.models, process.entrance)
        room = ApprovalsRoom(process.control, Fixed(edition))
        transport = httpx.ASGITransport(app=site([room], guard))
        self.process = process
        self.client = httpx.AsyncClient(transport=transport, base_url="http://door")

    async def ask(self, who: str, method: str, path: str, body: Any = None) -> httpx.Response:
        return await self.client.request(method, path, json=body, headers={"who": who})

    async def freeze(self) -> str:
        with pytest.raises(ApprovalNeeded) as caught:
            for _ in range(2):
                await self.process.entrance.complete(HELLO, IN_SESSION)
        return caught.value.approval


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with store(tmp_path) as database:
        made = House(Guarded(database, FREEZE))
        yield made
        await made.client.aclose()


async def test_whoever_may_decides(house: House) -> None:
    identity = await house.freeze()
    listed = (await house.ask("bob", "GET", "/v1/approvals?state=pending")).json()["data"]
    assert [one["id"] for one in listed] == [identity]
    yes = {"decision": "approve", "ceiling": 3}
    decided = await house.ask("ada", "POST", f"/v1/approvals/{identity}", yes)
    assert decided.status_code == 200
    assert decided.json()["state"] == "approved"
    assert decided.json()["decided_by"] == "ada"
    assert decided.json()["decided_from"] == "127.0.0.1"
    await house.process.control.parking.run_one(house.process)
    shown = (await house.ask("bob", "GET", f"/v1/approvals/{identity}")).json()
    assert shown["run"] == "done"
    assert shown["answer"]["message"]["content"] == [{"text": "ok"}]


@pytest.mark.parametrize(
    ("who", "body", "status"),
    [
        ("bob", {"decision": "approve"}, 403),
        ("eve", {"decision": "approve"}, 404),
        ("root", {"decision": "approve"}, 200),
        ("ada", {"decision": "maybe"}, 400),
        ("ada", {"decision": "approve", "once": True, "ceiling": 2}, 400),
        ("ada", {"decision": "reject", "ceiling": 2}, 400),
        ("ada", {"decision": "approve", "ceiling": "NaN"}, 400),
        ("ada", {"decision": "approve", "who": "me"}, 400),
        ("ada", [], 400),
    ],
)
async def test_who_may_say_what(house: House, who: str, body: Any, status: int) -> None:
    identity = await house.freeze()
    answer = await house.ask(who, "POST", f"/v1/approvals/{identity}", body)
    assert answer.status_code == status


async def test_two_decisions_at_once(house: House) -> None:
    identity = await house.freeze()
    answers = await asyncio.gather(
        *(
            house.ask("ada", "POST", f"/v1/approvals/{identity}", {"decision": "approve"})
            for _ in range(4)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]


async def test_the_log_is_for_admins(house: House) -> None:
    await house.freeze()
    assert (await house.ask("ada", "GET", "/v1/audit")).status_code == 403
    assert (await house.ask("root", "GET", "/v1/audit?after=x")).status_code == 400
    answer = await house.ask("root", "GET", "/v1/audit")
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert {row["decision"] for row in rows} == {"allow", "ask"}
    assert all(row["policy"] == "budget" for row in rows)
    after = await house.ask("root", "GET", f"/v1/audit?after={rows[-1]['id']}")
    assert after.text == ""


def test_an_ask_says_its_approval_in_the_error() -> None:
    told = errors.body(ApprovalNeeded("Ask for apv_1.", approval="apv_1"))["error"]
    assert (told["code"], told["approval"]) == ("approval_required", "apv_1")


CATALOG = """
models:
  m: {engine: fake, price: {input: 1, output: 1}}
roles: {judge: m}
policies:
  tiny: {kind: size, max_prompt_chars: 20}
  private: {kind: privacy, then: ask, keys: [k]}
"""


@pytest.mark.parametrize(
    ("content", "more", "decision"),
    [
        ("hi", [], "allow"),
        ("this is far too long for it", [], "deny"),
        ("a@example.org", [], "allow"),
        ("a@example.org", ["--key", "k"], "ask"),
    ],
)
def test_explain_says_which_rule_says_what(
    tmp_path: Path, content: str, more: list[str], decision: str
) -> None:
    (tmp_path / "fusion.yaml").write_text(CATALOG, "utf-8")
    request = {"model": "m", "messages": [{"role": "user", "content": content}]}
    (tmp_path / "request.json").write_text(json.dumps(request), "utf-8")
    catalog = ["--catalog", str(tmp_path / "fusion.yaml"), "--json", *more]
    done = CliRunner().invoke(app, ["policy", "explain", str(tmp_path / "request.json"), *catalog])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["decision"] == decision
    assert said["said"][0]["policy"] == "tiny"
