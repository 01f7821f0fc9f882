"""A cluster of others, reached by its dashboard: what is said where it cannot be used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cluster.existing import reach
from cluster.launch import LaunchError, ended, running

TOKEN = "right"


class Dashboard(BaseHTTPRequestHandler):
    """Wants the token, and knows its version."""

    def do_GET(self) -> None:
        right = self.headers.get("authorization") == f"Bearer {TOKEN}"
        self.send_response(200 if right and self.path == "/api/version" else 403)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def dashboard() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_it_is_reached_with_the_token_of_rays_own_tools(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n", encoding="utf-8")
    with dashboard() as address:
        by_word = reach(address, "127.0.0.1", 8000, {"RAY_AUTH_TOKEN": TOKEN})
        by_file = reach(f"http://{address}/", "127.0.0.1", 8000, {"RAY_AUTH_TOKEN_PATH": str(file)})
    assert by_word == by_file
    assert by_word.url == "http://127.0.0.1:8000"
    assert running(by_word), "whether it runs is for others"
    assert by_word.dashboard in ended(by_word)


def test_a_wrong_token_says_which_variables_to_set() -> None:
    with dashboard() as address, pytest.raises(LaunchError, match="RAY_AUTH_TOKEN_PATH"):
        reach(address, "127.0.0.1", 8000, {"RAY_AUTH_TOKEN": "wrong"})


def test_nobody_there_says_what_to_give() -> None:
    with pytest.raises(LaunchError, match="address of its dashboard"):
        reach("127.0.0.1:9", "127.0.0.1", 8000, {})
