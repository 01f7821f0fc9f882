"""`fusion up` as a person meets it: ports, signals, crashes, neighbours, broken engines."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from support import free_port, fusion, spawn, stop, wait_ready

from cluster import guardian, installation

pytestmark = pytest.mark.cluster

TINY = "models: {echo: {engine: fake, cpus: 0.1}}\nroles: {judge: echo}\n"


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY, encoding="utf-8")
    return file


def listening(pids: list[int]) -> set[int]:
    """Ports on which these processes listen."""
    return {
        connection.laddr.port
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in pids
    }


def test_a_crash_beside_another_ray_and_foreign_packages(catalog: Path, tmp_path: Path) -> None:
    """Three things that must not meet: our crash, a stranger's Ray, and a folder of namesakes."""
    home = tmp_path / "a folder"
    for name in ("models", "serve", "router", "cluster"):
        package = home / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('the wrong package')\n")
    stranger = _start_ray(tmp_path)
    try:
        server = spawn(catalog, home)
        wait_ready(server)
        body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30)
        assert answer.json()["choices"][0]["message"]["content"] == "hi"

        pids = guardian.members(server.marker)
        ports = listening(pids)
        assert server.port in ports
        seconds = stop(server, signal.SIGKILL)
        assert seconds < 20
        assert listening(guardian.members(server.marker)) == set()
        # A killed process gives its sockets back a moment after its number is gone.
        until = time.monotonic() + 20 - seconds
        while still := {port: _owner(port) for port in ports if _answers(port)}:
            assert time.monotonic() < until, f"ports are still open: {still}"
            time.sleep(0.2)
        assert stranger.poll() is None, "the stranger's Ray was ended"
        listed = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", "status", f"--address={STRANGER}"],
            env=_environment(tmp_path),
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert listed.returncode == 0, listed.stderr
    finally:
        stranger.terminate()
        stranger.wait(30)


STRANGER = f"127.0.0.1:{free_port()}"


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "RAY_AUTH_MODE": "disabled", "HOME": str(folder)}


def _python(folder: Path) -> str:
    """This interpreter on a path without a space: from one with a space Ray does not start."""
    link = folder / "python"
    link.symlink_to(sys.prefix)
    return str(link / Path(sys.executable).relative_to(sys.prefix))


def _start_ray(folder: Path) -> subprocess.Popen[bytes]:
    """A Ray that somebody else runs, on Ray's own default ports where they are free."""
    process = subprocess.Popen(
        [
            *(_python(folder), "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *(f"--port={STRANGER.rsplit(':', 1)[1]}", "--include-dashboard=false"),
            *("--num-cpus=1", "--object-store-memory=100000000"),
        ],
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not _answers(int(STRANGER.rsplit(":", 1)[1])):
        assert time.monotonic() < until
        time.sleep(0.2)
    return process


def _owner(port: int) -> str:
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            try:
                return " ".join(psutil.Process(connection.pid or 0).cmdline())
            except psutil.Error:
                return "a process that is just ending"
    return "nobody"


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_interrupted_while_starting_it_leaves_nothing(catalog: Path, tmp_path: Path) -> None:
    server = spawn(catalog, tmp_path)
    until = time.monotonic() + 60
    while "Starting models" not in server.log.read_text():
        assert time.monotonic() < until
        time.sleep(0.2)
    assert stop(server, signal.SIGINT) < 20
    assert server.process.returncode == 0
    assert "nothing is left running" in server.log.read_text()
    assert installation.find(server.port) is None


def test_a_taken_port_is_named_with_the_flag_that_changes_it(catalog: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            fusion("up", "-c", str(catalog), "-p", str(port)),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 is taken" in done.stderr
    assert "--port" in done.stderr


def test_without_keys_it_serves_this_machine_only(catalog: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        fusion("up", "-c", str(catalog), "--host", "0.0.0.0"),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "this machine only" in done.stderr


def test_a_broken_catalog_is_one_line_a_problem(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        "models:\n  a: {engine: fake, contxt: 9}\naliases: {x: y}\nroles: {judge: b}\n"
    )
    for command in (("check", str(broken)), ("up", "-c", str(broken))):
        done = subprocess.run(
            fusion(*command), capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
        )
        assert done.returncode == 2
        lines = done.stderr.strip().splitlines()
        assert [line.split(": ")[0].rsplit(":", 1)[1] for line in lines] == ["2", "3", "4"]
        assert "did you mean 'context'?" in lines[0]


def test_detached_status_and_down(catalog: Path, tmp_path: Path) -> None:
    port = free_port()

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            fusion(*command, "-p", str(port)),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=300,
            check=False,
        )

    started = run("up", "-d", "-c", str(catalog))
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        assert "curl http://127.0.0.1" in started.stdout
        made = installation.find(port)
        assert made is not None
        # A second one on the same port is refused, and the first goes on.
        assert "another fusion cluster" in run("up", "-c", str(catalog)).stderr
        assert "Workforce:echo" in run("status").stdout
        assert '"status": "ok"' in run("status", "--json").stdout
        assert "echo" in run("models").stdout
        asked = run("ask", "how are you", "-m", "echo")
        assert "how are you" in asked.stdout
        # The Ray API of this cluster wants its token.
        assert httpx.get(f"{made.dashboard}/api/version").status_code == 401
    finally:
        stopped = run("down")
    assert stopped.returncode == 0
    assert guardian.members(made.marker) == []
    assert run("status").returncode == 1
    assert "No fusion cluster" in run("down").stderr


def test_an_engine_that_cannot_start_is_one_readable_cause(tmp_path: Path) -> None:
    empty = tmp_path / "weights"
    empty.mkdir()
    file = tmp_path / "broken.yaml"
    file.write_text(
        f"models: {{m: {{engine: vllm, accelerator: cpu, source: '{empty}'}}}}\n"
        "roles: {judge: m}\n"
    )
    server = spawn(file, tmp_path)
    try:
        assert server.process.wait(300) == 1
        last = server.log.read_text().strip().splitlines()[-1]
        assert last.startswith("error: Workforce:m did not start: ")
        assert "config" in last
    finally:
        stop(server)
