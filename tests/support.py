"""A real cluster for tests, started the way a user starts it."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import openai

from cluster import guardian, installation

READY_S = 400.0


@dataclass
class Server:
    """A running `fusion up`."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    _clients: list[openai.OpenAI] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def marker(self) -> str:
        made = installation.find(self.port)
        assert made is not None, "the server has no state"
        return made.marker

    def client(self, **options: object) -> openai.OpenAI:
        """The official client, as a user would make it. Closed with the server."""
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", **options)  # type: ignore[arg-type]
        self._clients.append(client)
        return client

    def async_client(self, **options: object) -> openai.AsyncOpenAI:
        """The official asynchronous client. The test closes it: `async with`."""
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", **options)  # type: ignore[arg-type]

    def processes(self, name: str) -> list[int]:
        """Process ids of this cluster whose title or command contains `name`."""
        found = []
        for pid in guardian.members(self.marker):
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if name in title:
                found.append(pid)
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def print_at_once() -> None:
    """From now on each line goes out as it is printed, also into a file or a pipe."""
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)


def blankless_python(folder: Path) -> str:
    """This interpreter on a path without blanks, by a link in `folder`.

    For vLLM outside our cluster, which does the same: torch's compiler is called by a command that
    is split at blanks, and an engine whose kernel does not compile dies of the first request.
    """
    if not any(letter.isspace() for letter in sys.executable):
        return sys.executable
    link = folder / "python"
    link.symlink_to(sys.prefix, target_is_directory=True)
    return str(link / Path(sys.executable).relative_to(sys.prefix))


def fusion(*arguments: str) -> list[str]:
    """The command line of `fusion`, by this interpreter."""
    return [sys.executable, "-m", "serve.cli", *arguments]


def spawn(
    catalog: Path, folder: Path, *, port: int | None = None, env: dict[str, str] | None = None
) -> Server:
    """`fusion up`, begun and not waited for."""
    port = port or free_port()
    log = folder / f"up-{port}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("fusion")),
                "up",
                "-c",
                str(catalog),
                "-p",
                str(port),
            ],
            cwd=folder,
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            # What a test's cluster keeps ends with the test's folder.
            env={**os.environ, "XDG_DATA_HOME": str(folder / "data"), **(env or {})},
            start_new_session=True,
        )
    return Server(port, process, log)


def wait_ready(server: Server, timeout_s: float = READY_S) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        made = installation.find(server.port)
        if made is not None and made.ready:
            return
        if server.process.poll() is not None:
            raise AssertionError(f"fusion up ended:\n{server.log.read_text()}")
        time.sleep(0.2)
    raise AssertionError(f"not ready within {timeout_s:.0f} s:\n{server.log.read_text()}")


def stop(server: Server, sign: int = signal.SIGTERM) -> float:
    """Stop it and return the seconds until nothing of it was left."""
    made = installation.find(server.port)
    began = time.monotonic()
    if server.process.poll() is None:
        server.process.send_signal(sign)
    server.process.wait(30)
    while made is not None and guardian.members(made.marker):
        assert time.monotonic() - began < 30, "processes were left behind"
        time.sleep(0.1)
    return time.monotonic() - began


@contextmanager
def serving(catalog: str, folder: Path) -> Iterator[Server]:
    """A ready cluster for this catalog text; nothing of it outlives the block."""
    file = folder / "catalog.yaml"
    file.write_text(catalog, encoding="utf-8")
    server = spawn(file, folder)
    try:
        wait_ready(server)
        yield server
    finally:
        for client in server._clients:
            client.close()
        stop(server)
