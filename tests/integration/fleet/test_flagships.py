"""Flagships on real Ray: one limiter for two gateways, a refused key, repairs, a user's class."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from support import Server, serving

from cluster import installation

pytestmark = pytest.mark.cluster

KEY = "sk-planted-in-this-test"
PER_MINUTE = 6
CATALOG = """
server: {{gateways: 2}}
models:
  limited: {{engine: openai, base_url: "{url}/v1", api_key_env: PLANTED, requests_per_minute: {n}}}
  thinker: {{engine: openai, base_url: "{url}/v1"}}
  refused: {{engine: openai, base_url: "{url}/v1", api_key_env: WRONG}}
  mine: {{engine: python, target: "their_model:Mine", options: {{word: hello}}}}
roles: {{judge: mine}}
"""
THEIRS = """
class Mine:
    def __init__(self, word):
        self.word = word

    async def stream(self, request, call):
        yield self.word + " "
        yield request.messages[-1].text
"""
SAYS = {"limited": "yes", "thinker": "<think>Hm.</think>So."}
asked: Counter[str] = Counter()


class Provider(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model = body["model"]
        asked[model] += 1
        if model == "refused":
            self._say(401, {"error": {"message": f"No: {self.headers['authorization']}"}})
            return
        message = {"role": "assistant", "content": SAYS[model]}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        choice = {"message": message, "finish_reason": "stop"}
        self._say(200, {"choices": [choice], "usage": usage})

    def _say(self, status: int, body: Any) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("flagships")
    (folder / "their_model.py").write_text(THEIRS)
    keys = {"PLANTED": KEY, "WRONG": KEY}
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Provider) as provider,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, key in keys.items():
            patch.setenv(name, key)
        thread = threading.Thread(target=provider.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{provider.server_port}"
        try:
            with serving(CATALOG.format(url=url, n=PER_MINUTE), folder) as running:
                yield running
        finally:
            provider.shutdown()
            thread.join()


def ask(server: Server, model: str, **more: Any) -> Any:
    client = server.client(max_retries=0)
    messages = [{"role": "user", "content": "there"}]
    return client.chat.completions.create(model=model, messages=messages, **more)  # type: ignore[call-overload]


def all_at_once(server: Server, n: int) -> Counter[int]:
    """The statuses of so many requests to the limited model."""

    def one(_: int) -> int:
        try:
            ask(server, "limited")
        except openai.APIStatusError as error:
            return error.status_code
        return 200

    with ThreadPoolExecutor(n) as pool:
        return Counter(pool.map(one, range(n)))


def test_two_gateways_have_one_limit_and_a_restart_does_not_double_it(server: Server) -> None:
    began = time.monotonic()
    first = all_at_once(server, 3 * PER_MINUTE)
    assert first == {200: PER_MINUTE, 429: 2 * PER_MINUTE}
    [owner] = server.processes("Accounts")
    os.kill(owner, signal.SIGKILL)
    until = time.monotonic() + 30
    while server.processes("Accounts") in ([], [owner]) and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(2)
    second = all_at_once(server, PER_MINUTE)
    if time.monotonic() - began < 55:
        assert second[200] == 0, "the restarted owner gave the minute out once more"
    assert asked["limited"] <= PER_MINUTE * (1 + int((time.monotonic() - began) // 60))


def test_a_refused_key_takes_its_model_out_and_health_says_which(server: Server) -> None:
    for _ in range(6):
        with pytest.raises(openai.APIStatusError, match="WRONG") as caught:
            ask(server, "refused")
        assert caught.value.status_code == 502
        assert KEY not in str(caught.value)
    # Each of the two gateways found out for itself, once.
    assert asked["refused"] <= 2
    standing = {}
    for _ in range(6):
        standing = httpx.get(f"{server.url}/healthz", timeout=10).json()["flagships"]["refused"]
        if standing["status"] == "refused":
            break
    assert "WRONG" in standing["why"]


def test_what_was_mended_is_told_and_counted(server: Server) -> None:
    answer = ask(server, "thinker")
    assert answer.choices[0].message.content == "So."
    assert answer.model_extra["fusion"]["repairs"] == ["reasoning_tags"]
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if "fusion_repairs_total" in httpx.get(f"{server.url}/metrics", timeout=10).text:
            return
        time.sleep(1)
    raise AssertionError("the repair was not counted")


def test_a_class_of_the_users_own(server: Server) -> None:
    assert ask(server, "mine").choices[0].message.content == "hello there"
    pieces = [chunk.choices[0].delta.content for chunk in ask(server, "mine", stream=True)]
    assert "".join(filter(None, pieces)) == "hello there"


def test_the_key_is_in_no_log(server: Server) -> None:
    made = installation.find(server.port)
    assert made is not None
    files = [server.log, *(f for f in Path(made.temp).rglob("*") if f.is_file())]
    assert len(files) > 10
    assert not [
        f for f in files if f.stat().st_size < 50_000_000 and KEY.encode() in f.read_bytes()
    ]
