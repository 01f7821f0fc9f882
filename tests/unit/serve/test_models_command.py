from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from models.prices import Price
from serve.cli import app

CATALOG = """
models:
  big: {engine: openai, base_url: "%s/v1", context: 4096}
  small: {engine: fake}
roles: {judge: big}
"""
CARD = {
    "id": "big",
    "kind": "model",
    "model": "big",
    "tier": "flagship",
    "context": 4096,
    "price": Price.model_validate({"input": 1.25, "output": 10}).model_dump(mode="json"),
    "abilities": ["tools", "images", "JSON"],
}


class Server(BaseHTTPRequestHandler):
    """A server that answers everything with the same sentence."""

    def do_GET(self) -> None:
        standing = {"big": {"status": "refused", "why": "Check the variable K."}}
        health = {"status": "degraded", "parts": {}, "flagships": standing}
        self._say({"data": [CARD]} if self.path == "/v1/models" else health)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "Hello."}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        self._say({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    def _say(self, body: Any) -> None:
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["models", *arguments])


def test_names_with_price_abilities_and_health(url: str) -> None:
    shown = run("--url", url).output
    for part in ("big", "4096", "1.25", "10", "tools,", "images,", "JSON", "refused"):
        assert part in shown
    assert json.loads(run("--url", url, "--json").output)["data"][0]["health"] == "refused"


def test_what_a_model_can_do(url: str) -> None:
    result = run("test", "big", "--url", url, "--json")
    found = {each["ability"]: each["works"] for each in json.loads(result.output)}
    assert found == {"plain": True, "stream": False, "tools": False, "JSON": False}
    assert result.exit_code == 1


def test_a_flagship_can_be_tried_without_a_server(url: str, tmp_path: Path) -> None:
    file = tmp_path / "fusion.yaml"
    file.write_text(CATALOG % url)
    shown = run("test", "big", "--direct", "--catalog", str(file)).output
    assert "plain" in shown
    assert "Hello." in shown
    refused = run("test", "small", "--direct", "--catalog", str(file))
    assert "no flagship" in refused.output
