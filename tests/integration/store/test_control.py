"""Limits, approvals, sessions and keys in real databases, and under SIGKILL."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import postgres
import pytest
import stores
from support import free_port

from models.answerer import SystemClock
from models.call import Call
from models.errors import Conflict
from models.fake import FakeModel
from models.messages import Request, assistant, user
from serve.control.approvals import Approvals, Decision
from serve.control.counters import Counters
from serve.control.idempotency import Idempotent
from serve.control.policy.engine import Ruling, Said
from serve.control.policy.values import Add, Event, State, Verdict
from serve.control.sessions.store import New, Sessions
from serve.store.database import Database

ROOT = Path(__file__).parents[3]
#: Seconds for one answer, whatever dies meanwhile.
PATIENCE_S = 120.0
ROUNDS = int(os.environ.get("FUSION_KILLS", "5"))


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    binaries = postgres.programs()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    with postgres.server(binaries) as made:
        yield made.url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/fusion.db"
    found: str = request.getfixturevalue("postgresql")
    return found


@pytest.fixture
async def two(url: str) -> AsyncIterator[tuple[Database, Database]]:
    """One empty store as two processes see it."""
    async with stores.empty(url) as one:
        other = Database(url)
        yield one, other
        await other.close()


async def test_no_count_is_lost_and_no_limit_passed(two: tuple[Database, Database]) -> None:
    """Forty counts at once through two pools, ten of which are allowed."""

    def judge(state: State) -> Ruling:
        event = Event("request", 0.0, Call(), Request("m", ()))
        if state.value("c") >= 10:
            return Ruling("deny", event)
        return Ruling("allow", event, changes=(Add("c", 1),))

    pools = [Counters(database) for database in two]
    said = await asyncio.gather(
        *(pools[at % 2].judged(["c", "d"], f"h{at}", 0.0, judge) for at in range(40))
    )
    assert sum(ruling.decision == "allow" for ruling in said) == 10
    assert (await pools[0].read(["c"], 0.0)).value("c") == 10


async def test_an_approval_is_asked_once_decided_once_and_taken_once(
    two: tuple[Database, Database],
) -> None:
    clock = SystemClock()
    sides = [Approvals(database, Counters(database), clock) for database in two]
    request, call = Request("m", (user("x"),)), Call(session="s")
    verdict = Verdict("ask", "Why.")
    ruling = Ruling("ask", Event("request", 0.0, call, request), (Said("p", verdict),))
    asked = await asyncio.gather(
        *(sides[at % 2].ask(ruling, request, call, 60, tell=True) for at in range(8))
    )
    assert len({identity for identity, _ in asked}) == 1
    assert sum(new for _, new in asked) == 1
    identity = asked[0][0]
    yes = Decision(True, by="ada", origin="here")
    said = await asyncio.gather(
        *(sides[at % 2].decide(identity, yes, None, tell=True) for at in range(6)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, Conflict) for one in said) == 5
    taken = await asyncio.gather(*(sides[at % 2].take(f"r{at}") for at in range(6)))
    assert sum(row is not None for row in taken) == 1


async def test_appends_and_keys_at_the_same_time(two: tuple[Database, Database]) -> None:
    clock = SystemClock()
    sessions = [Sessions(database, clock) for database in two]
    identity = (await sessions[0].create("default"))["id"]
    pair = [New(user("q")), New(assistant("a"))]
    await asyncio.gather(*(sessions[at % 2].append(identity, "default", pair) for at in range(20)))
    page = await sessions[0].page(identity, "default")
    assert [item["position"] for item in page] == list(range(40))
    assert [item["message"]["role"] for item in page] == ["user", "assistant"] * 20
    fork = await sessions[1].fork(identity, "default", page[9]["id"])
    assert fork["length"] == 10
    assert len(await sessions[0].newest("default", before=fork["id"])) == 1

    model = FakeModel(first_token_s=0.1)
    sides = [Idempotent(model, database, clock) for database in two]
    call = Call(idempotency_key="k")
    request = Request("m", (user("x"),))
    await asyncio.gather(*(sides[at % 2].complete(request, call) for at in range(6)))
    assert len(model.calls) == 1


# SIGKILL at random moments


@dataclass
class Gateway:
    """A gateway process that can be killed and comes back on the same port."""

    url: str
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, str(ROOT / "tests/gateway_process.py"), self.url, str(self.port)]
        env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        self.process = subprocess.Popen(command, cwd=ROOT, env=env)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            assert self.process.poll() is None, "the gateway ended"
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/v1/sessions", timeout=5)
                return
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError("the gateway did not come up")

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@dataclass
class Client:
    """Talks in a session of its own, and knows what was acknowledged."""

    base: str
    session: str
    said: int = 0
    acknowledged: list[str] = field(default_factory=list)
    approvals: set[str] = field(default_factory=set)

    async def turn(self, http: httpx.AsyncClient) -> None:
        """One message, sent until it is answered or asks a person; under a key of its own."""
        text = f"{self.session}-{self.said}"
        body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 1}
        headers = {"x-session-id": self.session, "idempotency-key": text}
        told, until = "", time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            try:
                answer = await http.post(
                    f"{self.base}/v1/chat/completions", json=body, headers=headers
                )
            except httpx.HTTPError:
                await asyncio.sleep(0.1)
                continue
            if answer.status_code == 200:
                assert answer.json()["choices"][0]["message"]["content"] == f"re:{text}"
                self.acknowledged.append(text)
                self.said += 1
                return
            told = f"{answer.status_code} {answer.text}"
            if answer.status_code == 402:
                await self._approve(http, answer.json()["error"]["approval"])
            await asyncio.sleep(0.1)
        raise AssertionError(f"no answer: {told}")

    async def _approve(self, http: httpx.AsyncClient, identity: str) -> None:
        self.approvals.add(identity)
        try:
            await http.post(
                f"{self.base}/v1/approvals/{identity}", json={"decision": "approve", "once": True}
            )
            # The parked request goes on by itself; what is asked again gets its answer.
            for _ in range(200):
                seen = (await http.get(f"{self.base}/v1/approvals/{identity}")).json()
                if seen["run"] != "parked":
                    return
                await asyncio.sleep(0.1)
        except httpx.HTTPError:
            return  # killed meanwhile: the next attempt sees


async def test_nothing_is_lost_or_double_under_sigkill(url: str, capsys: Any) -> None:
    """Clients talk in frozen sessions while the gateway is killed at random moments."""
    async with stores.empty(url):
        pass
    gateway = Gateway(url)
    gateway.start()
    base = f"http://127.0.0.1:{gateway.port}"
    chance = random.Random(7)
    try:
        async with httpx.AsyncClient(timeout=30) as http:
            clients = [
                Client(base, (await http.post(f"{base}/v1/sessions", json={})).json()["id"])
                for _ in range(3)
            ]
            over = asyncio.Event()

            async def talk(client: Client) -> None:
                while not over.is_set():
                    await client.turn(http)

            talking = [asyncio.create_task(talk(client)) for client in clients]
            for _ in range(ROUNDS):
                await asyncio.sleep(chance.uniform(0.5, 2.0))
                await asyncio.to_thread(gateway.kill)
                await asyncio.to_thread(gateway.start)
            await asyncio.sleep(1.0)
            over.set()
            await asyncio.wait_for(asyncio.gather(*talking), PATIENCE_S)
            turns = approved = 0
            for client in clients:
                found = await http.get(f"{base}/v1/sessions/{client.session}/items?limit=1000")
                items = found.json()["data"]
                asked = [
                    item["message"]["content"][0]["text"]
                    for item in items
                    if item["message"]["role"] == "user"
                ]
                assert asked == client.acknowledged  # none lost, none double, in their order
                for identity in client.approvals:
                    seen = (await http.get(f"{base}/v1/approvals/{identity}")).json()
                    assert (seen["state"], seen["run"]) == ("approved", "done")
                turns += len(asked)
                approved += len(client.approvals)
    finally:
        gateway.kill()
    assert turns > 6
    assert approved
    with capsys.disabled():
        print(
            f"\n   {ROUNDS} kills: {turns} turns acknowledged, 0 lost, 0 double; "
            f"{approved} parked requests, each continued once"
        )
