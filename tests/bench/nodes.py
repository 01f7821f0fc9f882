"""The whole life of a cluster with an autoscaler, on this machine: from zero nodes to serving, a
spike, spill-over, a node that is taken back without notice, and back to zero nodes.

python tests/bench/nodes.py [--rate 8] [--spike 60]

The nodes are Ray's fake ones: real raylets under the real autoscaler (v2), on this machine, with
resources that are not there. Everything else is what a user runs: `fusion up --address`, the
catalog's scaling and budget, HTTP requests. It takes about five minutes and prints a line a second
or so; it ends with what was promised and whether it held. It stops only what it started.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import free_port, fusion, print_at_once

#: Ray's own name of the head in a fake cluster.
HEAD = "f" * 56
#: Only a worker has so many CPUs, so a replica needs a node of its own.
NODE_CPUS, BUDGET = 4, 3.0
CATALOG = f"""
fleet: {{usd_per_hour: {BUDGET}}}
models:
  own:
    engine: fake
    cpus: {NODE_CPUS}
    reply: "a b c d"
    first_token_s: 0.2
    token_s: 0.2
    max_ongoing: 4
    max_queued: 400
    replicas: {{min: 0, max: 5}}
    scaling:
      node: {{usd_per_hour: 1.0, startup_s: 15}}
      replica:
        prefill_tokens_per_s: 1000
        decode: {{step_base_s: 0.04, step_per_sequence_s: 0.04, max_batch: 4}}
      targets: {{ttft_s: 2.0}}
      late_usd: 0.0001
      spill: [remote]
  remote: {{engine: fake, cpus: 0.1, reply: "from elsewhere", max_ongoing: 200,
           price: {{input: 0.1, output: 0.1}}}}
aliases: {{default: own}}
roles: {{judge: remote}}
"""


def autoscaling(gcs: str) -> dict[str, Any]:
    """A launcher's config with every list that Ray looks for."""
    empty = ("setup", "head_setup", "worker_setup", "initialization", "head_start_ray")
    return {
        "cluster_name": "fake",
        "max_workers": 6,
        "idle_timeout_minutes": 0.25,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": gcs,
            "head_node_id": HEAD,
            "launch_multiple": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 3}, "node_config": {}, "max_workers": 0},
            "gpu": {
                "resources": {"CPU": NODE_CPUS, "GPU": 1},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 6,
            },
        },
        **{f"{name}_commands": [] for name in empty},
        "worker_start_ray_commands": [],
        "file_mounts": {},
        "auth": {},
        "cluster_synced_files": [],
        "rsync_exclude": [],
        "rsync_filter": [],
    }


@contextmanager
def head(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A head with an autoscaler and no worker: its dashboard, and the environment of its users."""
    gcs, dashboard = free_port(), free_port()
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(autoscaling(f"127.0.0.1:{gcs}")), encoding="utf-8")
    environment = {
        **os.environ,
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_worker_prestart": "false",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        "XDG_DATA_HOME": str(folder / "data"),
    }
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--num-cpus=3", f"--port={gcs}", "--node-ip-address=127.0.0.1"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--temp-dir={folder}/ray", f"--autoscaling-config={config}"),
        *("--object-store-memory=100000000", "--disable-usage-stats"),
    ]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield f"127.0.0.1:{dashboard}", environment
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        for pid in ours(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def ours(folder: Path, *words: str) -> list[int]:
    """Processes whose command names this folder and all of these words."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        mine = str(folder) in title and all(word in title for word in words)
        if mine and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


@dataclass
class Scene:
    """Who asks, what they got, and what runs."""

    url: str
    dashboard: str
    token: str
    began: float = field(default_factory=time.monotonic)
    answered: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    most_usd: float = 0.0
    rate: float = 0.0
    _last: str = ""

    def ask(self) -> None:
        body = {"model": "own", "messages": [{"role": "user", "content": "one two three"}]}
        try:
            got = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=120)
        except httpx.HTTPError as error:
            self.fail(repr(error))
            return
        if got.status_code == 200:
            self.answered[got.json()["model"]] += 1
        else:
            self.fail(f"{got.status_code} {got.text[:300]}")

    def fail(self, why: str) -> None:
        self.failures.append(why)
        print(f"{time.monotonic() - self.began:6.1f} s  FAILED: {why}")

    def look(self, note: str = "") -> tuple[int, int]:
        """Nodes and replicas now, printed where anything changed."""
        headers = {"authorization": f"Bearer {self.token}"}
        told = httpx.get(
            f"{self.dashboard}/api/v0/nodes", params={"detail": 1}, headers=headers, timeout=30
        ).json()
        alive = [n for n in told["data"]["result"]["result"] if n["state"] == "ALIVE"]
        nodes = sum("GPU" in n["resources_total"] for n in alive)
        parts = httpx.get(f"{self.url}/healthz", timeout=30).json()["parts"]
        replicas = parts.get("Workforce:own", {}).get("replicas", 0)
        self.most_usd = max(self.most_usd, replicas * 1.0)
        line = f"{nodes} nodes  {replicas} replicas  asked {self.rate:g}/s"
        if note or line != self._last:
            counts = " ".join(f"{name} {n}" for name, n in sorted(self.answered.items()))
            failed = f"  FAILED {len(self.failures)}" if self.failures else ""
            print(f"{time.monotonic() - self.began:6.1f} s  {line}  {counts}{failed}  {note}")
            self._last = line
        return nodes, replicas

    def watch(self, seconds: float) -> None:
        """Look each second for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            time.sleep(1)

    def until(self, seconds: float, what: str, done: Any) -> bool:
        """Look each second until it is so. False: it was not, within that time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if done(*self.look()):
                self.look(what)
                return True
            time.sleep(1)
        self.look(f"NOT within {seconds:g} s: {what}")
        return False


def play(scene: Scene, folder: Path, rate: float, spike_s: float) -> list[tuple[str, bool]]:
    """The acts, and what was promised of each."""
    stop = threading.Event()
    held = []
    with ThreadPoolExecutor(200) as pool:

        def feed() -> None:
            while not stop.is_set():
                if scene.rate:
                    pool.submit(scene.ask)
                time.sleep(1 / (scene.rate or 10))

        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            held.append(("nobody asks: no node", scene.until(60, "no node", lambda n, r: n == 0)))
            scene.rate = 1.0
            held.append(("served from zero", scene.until(90, "serves", lambda n, r: r >= 1)))
            scene.rate = rate
            scene.look("spike")
            held.append(("grows", scene.until(120, "three serve", lambda n, r: r >= 3)))
            scene.watch(spike_s / 2)
            killed = kill_a_worker(folder)
            scene.look(f"SIGKILL to a node's raylet ({killed})")
            held.append(("missed", scene.until(60, "its loss is seen", lambda n, r: r < 3)))
            held.append(("replaced", scene.until(120, "replaced", lambda n, r: r >= 3)))
        finally:
            scene.rate = 0.0
            stop.set()
            feeder.join()
    scene.look("nobody asks any more")
    held.append(("back to zero nodes", scene.until(240, "all gone", lambda n, r: n == r == 0)))
    return held


def kill_a_worker(folder: Path) -> int | None:
    """SIGKILL to the raylet of a node that is not the head."""
    for pid in ours(folder, "raylet"):
        title = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        if "raylet/raylet" in title.split("\0")[0] and HEAD not in title and "--head" not in title:
            os.kill(pid, signal.SIGKILL)
            return pid
    return None


def main() -> None:
    """Start, play, say what held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=8.0)
    parser.add_argument("--spike", type=float, default=40.0)
    given = parser.parse_args()
    # Ended from outside it still takes its cluster down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print_at_once()
    with tempfile.TemporaryDirectory(prefix="fc") as name:
        folder = Path(name)
        catalog, port = folder / "catalog.yaml", free_port()
        catalog.write_text(CATALOG, encoding="utf-8")
        with head(folder) as (address, environment):
            up = fusion("up", "-c", str(catalog), "-p", str(port), "--address", address)
            for _ in range(30):
                done = subprocess.run(up, env=environment, cwd=folder, check=False)
                if done.returncode == 0:
                    break
                time.sleep(2)
            token = environment["RAY_AUTH_TOKEN"]
            scene = Scene(f"http://127.0.0.1:{port}", f"http://{address}", token)
            held = play(scene, folder, given.rate, given.spike)
            down = fusion("down", "-p", str(port), "--address", address)
            done = subprocess.run(down, env=environment, cwd=folder, check=False)
            held.append(("taken off the cluster again", done.returncode == 0))
    held.append(("no failed request reached a client", not scene.failures))
    held.append((f"never above {BUDGET:g} dollars an hour", scene.most_usd <= BUDGET))
    held.append(("some went elsewhere", scene.answered["remote"] > 0))
    for what, kept in held:
        print(f"{'kept ' if kept else 'SHORT'}  {what}")
    for failure in Counter(scene.failures).most_common(5):
        print(failure)
    print(f"answered {dict(scene.answered)}, at most ${scene.most_usd:g} an hour")


if __name__ == "__main__":
    main()
