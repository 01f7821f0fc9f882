"""Files of 64 MB that are no sessions, sent to a real server: refused early, and never whole in
its memory."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import httpx
import pytest
from support import free_port

ROOT = Path(__file__).parents[3]
BOMB = 64_000_000
#: What may lie in the sockets' buffers beyond what the server has read.
BUFFERED = 10_000_000
HEAD = b'{"format": "fusion-session", "version": 1}\n'


@dataclass
class Server:
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/sessions"

    def peak(self) -> int:
        """The most memory that it ever had, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    port, store = free_port(), f"sqlite:///{tmp_path_factory.mktemp('store')}/fusion.db"
    command = [sys.executable, str(ROOT / "tests/gateway_process.py"), store, str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"})
    made = Server(port, process.pid)
    try:
        until = time.monotonic() + 60
        while True:
            assert process.poll() is None
            try:
                httpx.get(made.url, timeout=5)
                break
            except httpx.HTTPError:
                assert time.monotonic() < until
                time.sleep(0.05)
        yield made
    finally:
        process.kill()
        process.wait()


def sent(server: Server, headers: str, pieces: Iterable[bytes]) -> tuple[int, int, str]:
    """Send an import until its answer comes. Returns how many bytes left, the status, and the
    message."""
    left = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        line.sendall(f"POST /v1/sessions/import HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        for piece in pieces:
            if select.select([line], [], [], 0)[0]:
                break
            line.sendall(piece)
            left += len(piece)
        answer = b""
        while b"}" not in answer:
            got = line.recv(65_536)
            assert got, f"no answer: {answer!r}"
            answer += got
    status = int(answer.split(maxsplit=2)[1])
    return left, status, json.loads(answer[answer.index(b"{") :])["error"]["message"]


def chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """64 MB of these, in HTTP's chunks, so that nobody says beforehand how many come."""
    left = BOMB
    for piece in pieces:
        if left <= 0:
            return
        left -= len(piece)
        yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


def lines(size: int) -> Iterator[bytes]:
    """Good items of so many bytes each."""
    item = {"message": {"role": "user", "content": "x" * size}}
    return repeat(json.dumps(item).encode() + b"\n")


UNSAID = "Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("pieces", "status", "says", "most"),
    [
        (repeat(b"x" * 60_000), 400, "Line 2 is longer than 8,000,000 bytes", 8_000_000),
        (lines(100), 400, "more than 100,000 items", 20_000_000),
        (repeat(b"\n" * 60_000), 400, "more than 100,000 items", 200_000),
        (lines(60_000), 413, "larger than 32 MB", 32_000_000),
    ],
    ids=["one line", "many items", "empty lines", "large items"],
)
def test_a_bomb_is_refused_as_soon_as_it_is_one(
    server: Server, pieces: Iterator[bytes], status: int, says: str, most: int
) -> None:
    before = server.peak()
    left, got, message = sent(server, UNSAID, chunked(chain([HEAD], pieces)))
    assert (got, says in message) == (status, True), message
    assert left <= most + BUFFERED
    assert server.peak() - before < 1.5 * most + BUFFERED
    assert httpx.get(server.url, timeout=10).json()["data"] == []


def test_one_that_says_its_size_is_refused_unread(server: Server) -> None:
    before = server.peak()
    left, status, message = sent(server, f"Content-Length: {BOMB}\r\n", until_answered())
    assert (status, message) == (413, "The body is larger than 32 MB.")
    assert left == 0
    assert server.peak() - before < 2_000_000


def until_answered() -> Iterator[bytes]:
    """Nothing, for some seconds."""
    for _ in range(200):
        time.sleep(0.05)
        yield b""


def test_a_packed_one_is_not_unpacked(server: Server) -> None:
    packed = f"Content-Encoding: gzip\r\n{UNSAID}"
    left, status, message = sent(server, packed, until_answered())
    assert (left, status) == (0, 400)
    assert "Content-Encoding 'gzip' is not read here" in message


def test_a_file_that_is_a_session_is_taken(server: Server) -> None:
    raw = HEAD + b"".join(line for line, _ in zip(lines(1000), range(3), strict=False))
    made = httpx.post(f"{server.url}/import", content=raw, timeout=30)
    assert (made.status_code, made.json()["length"]) == (201, 3)
    assert httpx.delete(f"{server.url}/{made.json()['id']}", timeout=10).status_code == 204
