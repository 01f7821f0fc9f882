"""Paths, ports and marks of an installation; real small processes, no Ray."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import guardian, installation, launch, serving

SLEEP = "import time; time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> installation.Installation:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return installation.create("127.0.0.1", 18_123)


def test_it_is_found_again_and_forgotten(made: installation.Installation) -> None:
    assert installation.find(18_123) == made
    made.now_ready().save()
    found = installation.find(18_123)
    assert found is not None
    assert found.ready
    made.forget()
    assert installation.find(18_123) is None


def test_the_token_is_for_its_owner_alone(made: installation.Installation) -> None:
    assert len(made.token) == 64
    assert (made.folder / "token").stat().st_mode & 0o077 == 0
    assert made.temp.parent.stat().st_mode & 0o077 == 0
    assert made.token not in repr(made)


def test_all_ports_are_different_and_none_is_the_default(made: installation.Installation) -> None:
    ports = set(made.ports.values())
    assert len(ports) == len(made.ports)
    assert not ports & {6379, 8265, 9101, 8404, 8500, 10001}


def test_two_installations_share_no_port_and_a_taken_block_is_passed_over(
    made: installation.Installation,
) -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", max(made.ports.values()) + 150))
        stranger.listen()
        other = installation.create("127.0.0.1", 18_124)
    assert not set(other.ports.values()) & set(made.ports.values())
    assert min(other.ports.values()) >= min(made.ports.values()) + 200


def test_a_taken_port_is_not_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not installation.port_is_free("127.0.0.1", port)
        with pytest.raises(launch.LaunchError, match=f"Port {port} .* another program.*--port"):
            launch.check_port("127.0.0.1", port)
    assert installation.port_is_free("127.0.0.1", port)


def test_an_address_of_another_machine_is_not_called_taken() -> None:
    with pytest.raises(launch.LaunchError, match=r"Nobody can listen .* 192\.0\.2\.1 .*--host"):
        launch.check_port("192.0.2.1", 18_125)


def test_what_a_dead_guardian_left_is_ended_all_the_same(
    made: installation.Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead(subprocess.Popen[bytes]):
        def __init__(self, *_: object, **more: Any) -> None:
            super().__init__(["true"], stdin=subprocess.PIPE)

    process = start(SLEEP, made.marker)
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", Dead)
        with launch._guarded(made):
            pass
    assert process.wait(5) == -signal.SIGTERM


def test_where_no_node_tells_its_resources_the_start_goes_on(
    made: installation.Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = {
        "status": "UPDATING",
        "message": 'Resources required for each replica: {"GPU": 1.0}, total resources avail',
    }
    told = [
        {"a": {"status": "DEPLOYING", "deployments": {"x": waiting}}},
        {"a": {"status": "RUNNING", "deployments": {}}},
    ]

    def silent(_: object) -> Counter[str]:
        raise httpx.ReadTimeout("late")

    monkeypatch.setattr(serving, "_POLL_S", 0.01)
    monkeypatch.setattr(serving, "_applications", lambda _: told.pop(0))
    monkeypatch.setattr(serving, "_all_resources", silent)
    monkeypatch.setattr(launch, "running", lambda _: True)
    serving.wait_until_running(made, ["a"], lambda _: None)
    assert told == []


def start(code: str, marker: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, installation.MARKER: marker}
    )


def test_a_sweep_ends_the_marked_and_nobody_else() -> None:
    ours, other = start(SLEEP, "mark-one"), start(SLEEP, "mark-two")
    try:
        assert guardian.members("mark-one") == [ours.pid]
        assert guardian.sweep("mark-one") == []
        assert ours.wait(5) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


# A parent that carries the mark, and a child that has none: what setting a title leaves.
BARE_CHILD = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], env={{}}, start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def test_a_child_without_the_mark_goes_with_its_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", BARE_CHILD],
        env={**os.environ, installation.MARKER: "mark-five"},
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    with parent, parent.stdout as output:
        child = int(output.readline())
        assert sorted(guardian.members("mark-five")) == sorted([parent.pid, child])
        assert guardian.sweep("mark-five") == []
    # Gone, or dead and waiting for whoever adopted it to notice.
    stat = Path(f"/proc/{child}/stat")
    assert not stat.exists() or ") Z " in stat.read_text()


def test_what_does_not_listen_is_killed_after_the_grace() -> None:
    process = start(STUBBORN, "mark-three")
    until(lambda: ignores(process.pid, signal.SIGTERM))
    assert guardian.sweep("mark-three", grace_s=0.3) == []
    assert process.wait(5) == -signal.SIGKILL


def ignores(pid: int, sign: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = next(line for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(ignored.split()[1], 16) >> (sign - 1) & 1)


def until(happened: Callable[[], bool]) -> None:
    ends = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_the_guardian_acts_when_its_pipe_closes_and_ignores_ctrl_c() -> None:
    process = start(SLEEP, "mark-four")
    watcher = subprocess.Popen(
        [sys.executable, "-m", "cluster.guardian", "mark-four"], stdin=subprocess.PIPE
    )
    until(lambda: ignores(watcher.pid, signal.SIGINT))
    watcher.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    assert watcher.stdin is not None
    watcher.stdin.close()
    assert watcher.wait(10) == 0
    assert process.wait(5) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("Traceback:\n  File x\nRuntimeError: no weights\n", "RuntimeError: no weights"),
        ("a.b.CustomError: first\nValueError: second\n  at line 3", "ValueError: second"),
        ("something odd", "something odd"),
        ("", "no reason was given"),
    ],
)
def test_one_readable_cause(text: str, cause: str) -> None:
    assert serving.readable_cause(text) == cause


def test_a_replica_that_fits_nowhere_is_told_from_one_that_is_slow() -> None:
    def message(needed: str) -> str:
        return (
            "Deployment 'x' has 1 replicas that have taken more than 30s to be scheduled. "
            f"Resources required for each replica: {needed}, total resources available: {{}}. "
            "Use `ray status` for more details."
        )

    assert serving.required(message('[{"GPU": 1, "CPU": 1.0}, {"GPU": 1}]')) == {"GPU": 2, "CPU": 1}
    assert serving.required(message('{"CPU": 1.0}')) == {"CPU": 1}
    assert serving.required("Replica is initializing.") == {}
    there_is = {"CPU": 4.0, "memory": 1e9}
    assert serving.lacking({"CPU": 1}, there_is) is None
    assert serving.lacking({"CPU": 1, "GPU": 2}, there_is) == "a replica needs 2 GPU (there is 0)"
