"""SIGKILL to a gateway, to its database and to the database's own processes.

pytest -s tests/integration/store/test_control_crashes.py
FUSION_KILLS=50 pytest -s tests/integration/store/test_control_crashes.py
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import postgres
import pytest
import stores
from support import free_port

ROOT = Path(__file__).parents[3]
#: Seconds for one answer, whatever dies meanwhile.
PATIENCE_S = 120.0
ROUNDS = int(os.environ.get("FUSION_KILLS", "5"))


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
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            assert self.process.poll() is None, "the gateway ended"
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/v1/sessions", timeout=5)
                return
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError("the gateway did not come up")

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def again(self) -> None:
        self.kill()
        self.start()

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
            said = await http.post(
                f"{self.base}/v1/approvals/{identity}", json={"decision": "approve", "once": True}
            )
            if said.status_code == 503:
                return  # the store is dead: the next attempt says it again
            # The parked request goes on by itself; what is asked again gets its answer.
            for _ in range(200):
                seen = (await http.get(f"{self.base}/v1/approvals/{identity}")).json()
                if seen.get("run", "parked") != "parked":
                    return
                await asyncio.sleep(0.1)
        except httpx.HTTPError:
            return  # killed meanwhile: the next attempt sees


def turns(clients: Iterable[Client]) -> int:
    return sum(len(client.acknowledged) for client in clients)


async def progress(clients: Sequence[Client], talking: Sequence[asyncio.Task[None]]) -> None:
    """Once each of them has got another answer. Raises what a client fails with."""
    before, until = [client.said for client in clients], time.monotonic() + PATIENCE_S
    while any(c.said == n for c, n in zip(clients, before, strict=True)):
        assert time.monotonic() < until, "a client got no answer"
        for task in talking:
            if task.done():
                task.result()
        await asyncio.sleep(0.05)


async def ended(http: httpx.AsyncClient, base: str, identity: str) -> tuple[str, str]:
    """How an approval and its request ended. One whose runner was killed goes on when the dead
    one's hold is over, also where its client has got its answer under another approval."""
    until = time.monotonic() + PATIENCE_S
    while True:
        seen = (await http.get(f"{base}/v1/approvals/{identity}")).json()
        if seen["run"] != "parked" or time.monotonic() > until:
            return seen["state"], seen["run"]
        await asyncio.sleep(0.2)


@pytest.mark.timeout(2 * PATIENCE_S + 30 * ROUNDS)
async def test_nothing_is_lost_or_double_under_sigkill(
    store: str, request: pytest.FixtureRequest, capsys: Any
) -> None:
    """Clients talk in frozen sessions while what they talk to is killed at random moments."""
    async with stores.empty(store):
        pass
    gateway = Gateway(store)
    chance = random.Random(7)
    victims: dict[str, Callable[[], None]] = {"the gateway": gateway.again}
    if store.startswith("postgresql"):
        server: postgres.Server = request.getfixturevalue("postgresql")
        victims["the database"] = server.crash
        victims["a process of the database"] = lambda: server.crash_one(chance)
    killed: Counter[str] = Counter()
    gateway.start()
    base, began = gateway.base, time.monotonic()
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
            for at in range(ROUNDS):
                if at % 3:
                    # Most live until every client has got an answer: killed ever sooner than what
                    # the last one held is free again, they would show that nobody gets any.
                    await progress(clients, talking)
                await asyncio.sleep(chance.uniform(0.0, 2.0))
                victim = list(victims)[at % len(victims)]
                await asyncio.to_thread(victims[victim])
                killed[victim] += 1
                with capsys.disabled():
                    told = f"{time.monotonic() - began:6.1f} s  {at + 1:2}: {victim}"
                    print(f"{told}; {turns(clients)} turns")
            await asyncio.sleep(1.0)
            over.set()
            await asyncio.wait_for(asyncio.gather(*talking), PATIENCE_S)
            kept: list[str] = []
            for client in clients:
                for identity in client.approvals:
                    assert await ended(http, base, identity) == ("approved", "done")
                asked = await said(http, base, client.session)
                assert asked == client.acknowledged  # none lost, none double, in their order
                kept += asked
    finally:
        gateway.kill()
    approved = sum(len(client.approvals) for client in clients)
    acknowledged = turns(clients)
    assert len(kept) > 6
    assert approved
    with capsys.disabled():
        print(
            f"\n   SIGKILL to {', '.join(f'{victim} {n} times' for victim, n in killed.items())}:\n"
            f"   {acknowledged} turns acknowledged, {len(kept)} kept, "
            f"{len(kept) - len(set(kept))} double; {approved} parked, each continued once"
        )


async def test_freeze_kill_restart_approve_continue(store: str, capsys: Any) -> None:
    """The way of one frozen session, told with its times."""
    async with stores.empty(store):
        pass
    gateway = Gateway(store)
    gateway.start()
    began = time.monotonic()
    lines: list[str] = []

    def told(what: str) -> None:
        lines.append(f"   {time.monotonic() - began:6.2f} s  {what}")

    try:
        async with httpx.AsyncClient(base_url=gateway.base, timeout=30) as http:
            session = (await http.post("/v1/sessions", json={})).json()["id"]

            async def chat(text: str) -> httpx.Response:
                body = {"model": "m", "messages": [{"role": "user", "content": text}]}
                headers = {"x-session-id": session, "idempotency-key": text}
                return await http.post("/v1/chat/completions", json=body, headers=headers)

            for text in ("one", "two"):
                assert (await chat(text)).status_code == 200
                told(f"answered '{text}' for a dollar")
            frozen = await chat("three")
            assert frozen.status_code == 402
            identity = frozen.json()["error"]["approval"]
            told(f"402 to 'three': {frozen.json()['error']['message']}")
            await asyncio.to_thread(gateway.again)
            told("the gateway was killed and is up again")
            (waiting,) = (await http.get("/v1/approvals?state=pending")).json()["data"]
            assert waiting["id"] == identity
            told(f"pending: {identity}")
            yes = {"decision": "approve", "ceiling": 10}
            assert (await http.post(f"/v1/approvals/{identity}", json=yes)).status_code == 200
            told("approved, with a ceiling of ten dollars")
            for _ in range(200):
                seen = (await http.get(f"/v1/approvals/{identity}")).json()
                if seen["run"] != "parked":
                    break
                await asyncio.sleep(0.02)
            assert seen["run"] == "done"
            told("the parked request went on by itself")
            again = await chat("three")
            assert again.json()["choices"][0]["message"]["content"] == "re:three"
            told("'three', sent again with its key, gets that answer")
            assert (await chat("four")).status_code == 200
            told("answered 'four': the session goes on")
            assert await said(http, gateway.base, session) == ["one", "two", "three", "four"]
    finally:
        gateway.kill()
    with capsys.disabled():
        print("\n" + "\n".join(lines))


async def said(http: httpx.AsyncClient, base: str, session: str) -> list[str]:
    """What users said in it, as it is kept."""
    found = await http.get(f"{base}/v1/sessions/{session}/items?limit=1000")
    messages = [item["message"] for item in found.json()["data"]]
    return [one["content"][0]["text"] for one in messages if one["role"] == "user"]
