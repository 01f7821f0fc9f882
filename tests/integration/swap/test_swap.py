"""What answers is changed while it answers: on real Ray, under load, by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from support import Server, fusion, serving

pytestmark = pytest.mark.cluster

SLOW = '  slow: {engine: fake, cpus: 0.1, reply: "1 2 3 4 5 6 7 8 9 10", token_s: 3}'
#: Its writer is asked half a minute after the request began.
LATE = "panels: {late: {members: [slow], synthesis: left}}"
CATALOG = f"""
server: {{gateways: 2}}
models:
  left: {{engine: fake, cpus: 0.1, reply: left}}
  right: {{engine: fake, cpus: 0.1, reply: right}}
{SLOW}
aliases: {{brain: left}}
{LATE}
roles: {{judge: brain}}
"""
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(CATALOG, tmp_path_factory.mktemp("swap")) as running:
        yield running


@pytest.fixture
def command(server: Server) -> Any:
    """Runs a `fusion` command against the server, as the user who started it."""

    def run(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            fusion(*arguments, "--port", str(server.port)),
            env={**os.environ, "XDG_DATA_HOME": str(server.log.parent / "data")},
            cwd=server.log.parent,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


class Load:
    """Callers who never stop asking for `brain`, and take down who answered when."""

    def __init__(self, server: Server, callers: int = 8) -> None:
        self.answers: list[tuple[float, str]] = []
        self.failures: list[str] = []
        self._server = server
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(callers)]

    def _ask(self) -> None:
        with httpx.Client(base_url=self._server.url, timeout=30) as client:
            while not self._over.is_set():
                began = time.monotonic()
                body = {"model": "brain", "messages": HELLO}
                answer = client.post("/v1/chat/completions", json=body)
                if answer.status_code == 200:
                    told = answer.json()["choices"][0]["message"]["content"]
                    self.answers.append((began, told))
                else:
                    self.failures.append(answer.text)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)


def test_an_alias_is_swapped_under_load(server: Server, command: Any) -> None:
    with Load(server) as load:
        told = command("alias", "set", "brain=right")
        swapped_at = time.monotonic()
        time.sleep(4)
    assert "aliases.brain: left → right" in told
    assert load.failures == []
    late = [began - swapped_at for began, answer in load.answers if answer == "left"]
    print(f"{len(load.answers)} calls; the last on the old model began at {max(late):+.2f} s")
    assert max(late) < 2.0
    assert {answer for began, answer in load.answers if began > swapped_at + 2} == {"right"}


def test_models_are_changed_while_a_stream_goes_on(server: Server, command: Any) -> None:
    newest = server.log.parent / "newest.yaml"
    newest.write_text(
        CATALOG.replace("reply: left}", "reply: better}")
        .replace(SLOW, "")
        .replace(LATE, "")
        .replace("aliases:", "  third: {engine: fake, cpus: 0.1, reply: third}\naliases:")
    )
    told = command("apply", str(newest), "--dry-run")
    assert "models.third: nothing → a model" in told
    assert "models.slow: a model" in told
    stream = server.client().chat.completions.create(model="slow", messages=HELLO, stream=True)
    heard = [next(stream)]
    with ThreadPoolExecutor(1) as beside:
        fused = beside.submit(
            server.client().chat.completions.create, model="fusion/late", messages=HELLO
        )
        time.sleep(1)
        told = command("apply", str(newest), "--drain", "45")
        assert "is in force" in told
        # It began before, and so ended on the writer that has been replaced since.
        assert fused.result().choices[0].message.content == "left"
    for model, answer in (("third", "third"), ("left", "better"), ("brain", "better")):
        said = server.client().chat.completions.create(model=model, messages=HELLO)
        assert said.choices[0].message.content == answer
    with pytest.raises(openai.NotFoundError):
        server.client().chat.completions.create(model="slow", messages=HELLO)
    # Its model is gone for new calls; what had begun ends as it should.
    heard += list(stream)
    text = "".join(choice.delta.content or "" for chunk in heard for choice in chunk.choices)
    assert text == "1 2 3 4 5 6 7 8 9 10"


def test_a_broken_catalog_is_refused_whole(server: Server, command: Any) -> None:
    broken = server.log.parent / "broken.yaml"
    broken.write_text("models:\n  m: {engine: fake}\nroles: {judge: nobody}\n")
    assert "broken.yaml:3: nothing is called 'nobody'" in command("apply", str(broken), status=2)
    before = json.loads(command("history", "--json"))[0]["version"]
    assert "nothing is called 'gone'" in command("alias", "set", "brain=gone", status=2)
    assert json.loads(command("history", "--json"))[0]["version"] == before


def test_a_model_that_does_not_start_changes_nothing(server: Server, command: Any) -> None:
    bad = server.log.parent / "bad.yaml"
    bad.write_text(
        CATALOG.replace("aliases:", "  ghost: {engine: vllm, source: a/b, cpus: 0.1}\naliases:")
    )
    before = json.loads(command("history", "--json"))[0]["version"]
    assert "Workforce:ghost cannot start here: a replica needs 1 GPU" in command(
        "apply", str(bad), status=1
    )
    assert json.loads(command("history", "--json"))[0]["version"] == before
    assert "Workforce:ghost" not in httpx.get(f"{server.url}/healthz").json()["parts"]


def test_going_back(server: Server, command: Any) -> None:
    assert "is in force" in command("rollback", "1", "--drain", "3")
    said = server.client().chat.completions.create(model="brain", messages=HELLO)
    assert said.choices[0].message.content == "left"
    assert "rollback" in command("history")


def test_the_first_key_closes_the_door(server: Server, command: Any, tmp_path: Path) -> None:
    catalog = str(server.log.parent / "catalog.yaml")
    made = json.loads(command("keys", "create", "--name", "ci", "-c", catalog, "--json"))
    time.sleep(1)
    with pytest.raises(openai.AuthenticationError, match="not known"):
        server.client().chat.completions.create(model="brain", messages=HELLO)
    mine = openai.OpenAI(base_url=f"{server.url}/v1", api_key=made["key"])
    stream = mine.chat.completions.create(model="slow", messages=HELLO, stream=True)
    next(stream)
    with pytest.raises(openai.PermissionDeniedError, match="admin"):
        mine.get("/catalog", cast_to=object)
    # Whoever runs the server needs no key of his own.
    assert "brain" in command("alias", "list")
    command("keys", "revoke", made["id"], "-c", catalog)
    revoked_at = time.monotonic()
    with pytest.raises(openai.APIError, match="not good any more"):
        list(stream)
    assert time.monotonic() - revoked_at < 3
    with pytest.raises(openai.AuthenticationError, match="revoked"):
        mine.chat.completions.create(model="brain", messages=HELLO)
    mine.close()
    assert made["key"] not in server.log.read_text()
