"""A model in two places on a real cluster of three nodes: a floor on demand, the rest on spot.

The nodes are raylets of this machine with labels; `fusion up --address` puts everything on them.
Nodes that come and go are played by tests/bench/nodes.py.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from support import free_port, fusion

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(500)]

CATALOG = """
models:
  own:
    engine: fake
    cpus: 4
    reply: "{pid}"
    first_token_s: 0.3
    max_ongoing: 4
    replicas: {min: 2, max: 2}
    scaling:
      node: {usd_per_hour: 1.0, startup_s: 20, labels: {market: on-demand}, spot: {
        usd_per_hour: 0.3, mean_life_s: 600, notice_s: 30, labels: {market: spot}}}
      on_demand_floor: 0.5
      replica:
        prefill_tokens_per_s: 1000
        decode: {step_base_s: 0.04, step_per_sequence_s: 0.04, max_batch: 4}
aliases: {default: own}
roles: {judge: own}
"""
RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats")
HERE = ("--node-ip-address=127.0.0.1", "--object-store-memory=100000000")


@dataclass
class Cluster:
    folder: str
    dashboard: str
    environment: dict[str, str]

    def nodes(self) -> int:
        """How many are up."""
        headers = {"authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        with suppress(httpx.HTTPError, KeyError):
            url = f"http://{self.dashboard}/api/v0/nodes"
            told = httpx.get(url, headers=headers, timeout=30).json()
            return sum(one["state"] == "ALIVE" for one in told["data"]["result"]["result"])
        return 0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A head that takes no model, and a node of each market."""
    gcs, dashboard = free_port(), free_port()
    # Ray's sockets need a short path.
    folder = tempfile.mkdtemp(prefix="fp")
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }
    board = ("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}")
    head = ("--head", "--num-cpus=3", f"--port={gcs}", *board, f"--temp-dir={folder}")
    # Whatever else lands there leaves room for a replica.
    join = ("--num-cpus=6", f"--address=127.0.0.1:{gcs}")
    started: list[subprocess.Popen[bytes]] = []
    with (tmp_path / "ray.log").open("wb") as log:

        def start(*words: str) -> subprocess.Popen[bytes]:
            command = [*RAY, *HERE, *words]
            process = subprocess.Popen(
                command, env=environment, cwd=tmp_path, stdout=log, stderr=log
            )
            started.append(process)
            return process

        try:
            start(*head)
            made = Cluster(folder, f"127.0.0.1:{dashboard}", environment)
            # One after the other: raylets of one machine that start at once take the same ports.
            until(lambda: made.nodes() == 1, 120)
            start(*join, "--labels=market=on-demand")
            until(lambda: made.nodes() == 2, 120)
            start(*join, "--labels=market=spot")
            until(lambda: made.nodes() == 3, 120)
            yield made
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
            for process in started:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20)
            for pid in processes(folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in started:
                process.kill()
                process.wait()
            shutil.rmtree(folder, ignore_errors=True)


def until(so: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end
        time.sleep(0.5)


def processes(*words: str) -> list[int]:
    """Processes of others whose command has all of these words."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if all(word in title for word in words) and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def test_replicas_run_in_both_places_and_one_that_dies_fails_nobody(
    cluster: Cluster, tmp_path: Path
) -> None:
    catalog, port = tmp_path / "catalog.yaml", free_port()
    catalog.write_text(CATALOG)
    url, where = f"http://127.0.0.1:{port}", ("--address", cluster.dashboard)
    up = fusion("up", "-c", str(catalog), "-p", str(port), *where)
    done = subprocess.run(
        up, env=cluster.environment, cwd=tmp_path, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr

    def replicas() -> dict[str, int]:
        parts = httpx.get(f"{url}/healthz", timeout=30).json()["parts"]
        return {name: one["replicas"] for name, one in parts.items() if "Workforce" in name}

    until(lambda: replicas() == {"Workforce:own": 1, "Workforce:own~node.spot": 1}, 60)

    def ask(_: object = None) -> str:
        body = {"model": "own", "messages": [{"role": "user", "content": "who?"}]}
        got = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        assert got.status_code == 200, got.text
        said: str = got.json()["choices"][0]["message"]["content"]
        return said

    def lose_spot() -> None:
        [spot] = processes(cluster.folder, "raylet/raylet", "spot")
        os.kill(spot, signal.SIGKILL)
        until(lambda: replicas()["Workforce:own~node.spot"] == 0, 60)

    with ThreadPoolExecutor(8) as pool:
        shared = Counter(pool.map(ask, range(32)))
        assert len(shared) == 2, "both places work"
        assert min(shared.values()) >= 8

        stop, said = threading.Event(), list[str]()

        def go_on() -> None:
            while not stop.is_set():
                said.append(ask())

        talking = [pool.submit(go_on) for _ in range(6)]
        time.sleep(1)
        try:
            lose_spot()
            before = len(said)
            until(lambda: len(said) > before + 20 or any(one.done() for one in talking), 30)
        finally:
            stop.set()
        for one in talking:
            one.result(60)  # raises what failed
    assert len(set(said[before:])) == 1, "the floor answers"
