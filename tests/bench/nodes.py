"""The life of clusters with an autoscaler, on this machine.

python tests/bench/nodes.py [--only plain|spot|sold-out]

plain     from zero nodes to serving, a spike, spill-over, a node that dies, back to zero
spot      a floor on demand and the rest on spot; a node is taken back with a notice, one without
sold-out  the spot market sells nothing: what people wait for goes on demand, a batch waits

The nodes are Ray's fake ones: real raylets under the real autoscaler (v2), on this machine, with
resources that are not there. Everything else is what a user runs: `fusion up --address`, the
catalog's scaling and budget, HTTP requests. Each takes two to four minutes and prints a line a
second or so; it ends with what was promised and whether it held. It stops only what it started.
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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import free_port, fusion, print_at_once

#: Ray's own name of the head in a fake cluster.
HEAD = "f" * 56
#: Only a worker has so many CPUs, so a replica needs a node of its own.
NODE_CPUS, BUDGET, ROWS = 4, 3.0, 20
USD = {"on-demand": 1.0, "spot": 0.3}
NODE = "{usd_per_hour: 1.0, startup_s: 15}"
SPOT = """{usd_per_hour: 1.0, startup_s: 8, labels: {market: on-demand}, spot: {usd_per_hour: 0.3,
        mean_life_s: 600, notice_s: 30, notice: aws, labels: {market: spot}}}"""
CATALOG = f"""
fleet: {{usd_per_hour: {BUDGET}}}
models:
  own:
    engine: fake
    cpus: {NODE_CPUS}
    env: {{AWS_EC2_METADATA_SERVICE_ENDPOINT: "@metadata"}}
    reply: "a b c d"
    first_token_s: 0.2
    token_s: 0.2
    max_ongoing: 4
    max_queued: 400
    replicas: {{min: 0, max: 5}}
    scaling:
      node: "@node"
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


def node_type(market: str, most: int = 6) -> dict[str, Any]:
    return {
        "resources": {"CPU": NODE_CPUS, "GPU": 1},
        "labels": {"market": market},
        "node_config": {},
        "min_workers": 0,
        "max_workers": most,
    }


def autoscaling(gcs: str, types: Mapping[str, Any]) -> dict[str, Any]:
    """A launcher's config with every list that Ray looks for, and these types of workers."""
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
            **types,
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
def head(folder: Path, types: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """A head with an autoscaler and no worker: its dashboard, and the environment of its users."""
    gcs, dashboard = free_port(), free_port()
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(autoscaling(f"127.0.0.1:{gcs}", types)), encoding="utf-8")
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
        # A head that is ended has nothing to wait for.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
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
class Cast:
    """What runs: nodes and replicas by market. In a plain cluster all are on demand."""

    nodes: Counter[str]
    replicas: Counter[str]

    @property
    def usd(self) -> float:
        return sum(USD[market] * count for market, count in self.replicas.items())


@dataclass
class Scene:
    """Who asks, what they got, and what runs."""

    url: str
    dashboard: str
    token: str
    folder: Path
    notices: Notices
    began: float = field(default_factory=time.monotonic)
    answered: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    held: list[tuple[str, bool]] = field(default_factory=list)
    most_usd: float = 0.0
    rate: float = 0.0
    _last: str = ""

    def say(self, what: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s  {what}")

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
        self.say(f"FAILED: {why}")

    @contextmanager
    def crowd(self) -> Iterator[None]:
        """People who ask `rate` times a second."""
        stop = threading.Event()

        def feed() -> None:
            while not stop.is_set():
                if self.rate:
                    pool.submit(self.ask)
                time.sleep(1 / (self.rate or 10))

        with ThreadPoolExecutor(200) as pool:
            feeder = threading.Thread(target=feed)
            feeder.start()
            try:
                yield
            finally:
                self.rate = 0.0
                stop.set()
                feeder.join()

    def look(self, note: str = "") -> Cast:
        """What runs now, printed where anything changed."""
        headers = {"authorization": f"Bearer {self.token}"}
        told = httpx.get(
            f"{self.dashboard}/api/v0/nodes", params={"detail": 1}, headers=headers, timeout=30
        ).json()
        alive = [n for n in told["data"]["result"]["result"] if n["state"] == "ALIVE"]
        nodes = Counter(n["labels"]["market"] for n in alive if "GPU" in n["resources_total"])
        parts = httpx.get(f"{self.url}/healthz", timeout=30).json()["parts"]
        replicas = Counter[str]()
        for name, part in parts.items():
            if name.startswith("Workforce:own"):
                replicas["spot" if name.endswith("spot") else "on-demand"] += part["replicas"]
        cast = Cast(+nodes, +replicas)
        self.most_usd = max(self.most_usd, cast.usd)
        line = (
            f"{told_of(cast.nodes)} nodes, {told_of(cast.replicas)} replicas, {self.rate:g} asked/s"
        )
        if note or line != self._last:
            counts = " ".join(f"{name} {n}" for name, n in sorted(self.answered.items()))
            failed = f"  FAILED {len(self.failures)}" if self.failures else ""
            self.say(f"{line}  {counts}{failed}  {note}")
            self._last = line
        return cast

    def watch(self, seconds: float) -> list[Cast]:
        """What was seen, each second for so long."""
        end, seen = time.monotonic() + seconds, []
        while time.monotonic() < end:
            seen.append(self.look())
            time.sleep(1)
        return seen

    def until(self, promise: str, seconds: float, so: Callable[[Cast], bool]) -> None:
        """Look each second until it is so, which was promised within that time."""
        end = time.monotonic() + seconds
        while not (kept := so(self.look())) and time.monotonic() < end:
            time.sleep(1)
        self.look(promise if kept else f"NOT within {seconds:g} s: {promise}")
        self.held.append((promise, kept))


def told_of(counts: Counter[str]) -> str:
    return " + ".join(f"{n} {market}" for market, n in sorted(counts.items())) or "no"


class Notices:
    """A metadata service as EC2's, which all nodes here share: of those that ask, one gets a notice
    once `give` was called."""

    def __init__(self) -> None:
        self._given = 0
        self._tokens = 0
        self._lock = threading.Lock()
        notices = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self._say(200, "token")

            def do_GET(self) -> None:
                if not notices.take():
                    return self._say(404, "")
                end = datetime.now(UTC) + timedelta(seconds=30)
                said = {"action": "terminate", "time": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
                return self._say(200, json.dumps(said))

            def _say(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def give(self) -> None:
        with self._lock:
            self._given += 1

    def take(self) -> bool:
        with self._lock:
            had, self._given = self._given > 0, max(0, self._given - 1)
            return had


def plain(scene: Scene) -> None:
    scene.until("nobody asks: no node", 60, lambda cast: not cast.nodes)
    with scene.crowd():
        scene.rate = 1.0
        scene.until("served from zero", 90, lambda cast: cast.replicas.total() >= 1)
        scene.rate = 8.0
        scene.look("spike")
        scene.until("grows to three", 120, lambda cast: cast.replicas.total() >= 3)
        scene.watch(20)
        scene.look(f"SIGKILL to a node's raylet ({kill_a_worker(scene.folder)})")
        scene.until("its loss is seen", 60, lambda cast: cast.replicas.total() < 3)
        scene.until("it is replaced", 120, lambda cast: cast.replicas.total() >= 3)
    scene.look("nobody asks any more")
    scene.until("back to zero nodes", 240, lambda cast: not cast.nodes and not cast.replicas)
    scene.held.append(("some went elsewhere", scene.answered["remote"] > 0))


def spot(scene: Scene) -> None:
    scene.until("nobody asks: no node", 60, lambda cast: not cast.nodes)
    with scene.crowd():
        scene.rate = 1.0
        scene.until("the floor is on demand", 90, lambda cast: cast.replicas["on-demand"] >= 1)
        scene.rate = 8.0
        scene.look("spike")
        scene.until("three more on spot", 120, lambda cast: cast.replicas["spot"] >= 3)
        scene.watch(10)
        before, nodes = scene.look().replicas["spot"], worker_raylets(scene.folder, "spot")
        scene.notices.give()
        scene.look("a node gets a notice of 30 s")
        scene.until(
            "it is gone before its time is over",
            30,
            lambda _: not nodes <= worker_raylets(scene.folder, "spot"),
        )
        scene.until("and replaced", 60, lambda cast: cast.replicas["spot"] >= before)
        killed = kill_a_worker(scene.folder, "spot")
        scene.look(f"SIGKILL to a spot node's raylet ({killed}), without a notice")
        scene.until("its loss is seen", 60, lambda cast: cast.replicas["spot"] < before)
        scene.until("it is replaced too", 120, lambda cast: cast.replicas["spot"] >= before)
    scene.look("nobody asks any more")
    scene.until("back to zero nodes", 240, lambda cast: not cast.nodes and not cast.replicas)


def sold_out(scene: Scene) -> None:
    rows, out = scene.folder / "rows.jsonl", scene.folder / "answers"
    rows.write_text("".join(f'{{"id": "{n}", "prompt": "one {n}"}}\n' for n in range(ROWS)))
    batch = fusion("batch", "submit", str(rows), "-m", "own", "--url", scene.url, "-o", str(out))
    with scene.crowd():
        scene.look(f"a batch of {ROWS} rows")
        with subprocess.Popen(batch, stdout=subprocess.DEVNULL) as process:
            waiting = scene.watch(40)
            none = not any(cast.nodes for cast in waiting) and process.poll() is None
            scene.held.append(("a batch waits for spot: no node is bought on demand", none))
            scene.rate = 1.0
            scene.look("somebody asks")
            scene.until("served on demand", 90, lambda cast: cast.replicas["on-demand"] >= 1)
            scene.until("the batch takes free room", 120, lambda _: process.poll() is not None)
            scene.held.append(("all its rows are answered", process.wait() == 0))
        scene.rate = 8.0
        scene.look("spike")
        scene.until(
            "what does not come up is bought on demand",
            120,
            lambda cast: cast.replicas["on-demand"] >= 3,
        )
    scene.look("nobody asks any more")
    scene.until("back to zero nodes", 240, lambda cast: not cast.nodes and not cast.replicas)


def worker_raylets(folder: Path, market: str = "") -> set[int]:
    """Processes of the raylets of nodes that are not the head."""
    found = set()
    for pid in ours(folder, "raylet", market):
        with suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            if (
                "raylet/raylet" in title.split("\0")[0]
                and HEAD not in title
                and "--head" not in title
            ):
                found.add(pid)
    return found


def kill_a_worker(folder: Path, market: str = "") -> int | None:
    """SIGKILL to the raylet of a node that is not the head."""
    for pid in worker_raylets(folder, market):
        os.kill(pid, signal.SIGKILL)
        return pid
    return None


#: Each: its node in the catalog, the types of workers, what is played.
PLAYS: dict[str, tuple[str, dict[str, Any], Callable[[Scene], None]]] = {
    "plain": (NODE, {"gpu": node_type("on-demand")}, plain),
    "spot": (SPOT, {"od": node_type("on-demand"), "spot": node_type("spot")}, spot),
    "sold-out": (SPOT, {"od": node_type("on-demand"), "spot": node_type("spot", 0)}, sold_out),
}


def played(name: str) -> bool:
    """Start, play, say what held; whether all did."""
    node, types, play = PLAYS[name]
    print(f"\n{name}")
    notices = Notices()
    with tempfile.TemporaryDirectory(prefix="fc") as root:
        folder = Path(root)
        catalog, port = folder / "catalog.yaml", free_port()
        text = CATALOG.replace('"@node"', node).replace("@metadata", notices.url)
        catalog.write_text(text, encoding="utf-8")
        with head(folder, types) as (address, environment):
            up = fusion("up", "-c", str(catalog), "-p", str(port), "--address", address)
            for _ in range(30):
                done = subprocess.run(up, env=environment, cwd=folder, check=False)
                if done.returncode == 0:
                    break
                time.sleep(2)
            token = environment["RAY_AUTH_TOKEN"]
            scene = Scene(f"http://127.0.0.1:{port}", f"http://{address}", token, folder, notices)
            play(scene)
            down = fusion("down", "-p", str(port), "--address", address)
            done = subprocess.run(down, env=environment, cwd=folder, check=False)
            scene.held.append(("taken off the cluster again", done.returncode == 0))
    notices.server.shutdown()
    scene.held.append(("no failed request reached a client", not scene.failures))
    scene.held.append((f"never above {BUDGET:g} dollars an hour", scene.most_usd <= BUDGET))
    for what, kept in scene.held:
        print(f"{'kept ' if kept else 'SHORT'}  {what}")
    for failure in Counter(scene.failures).most_common(5):
        print(failure)
    print(f"answered {dict(scene.answered)}, at most ${scene.most_usd:g} an hour")
    return all(kept for _, kept in scene.held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(PLAYS))
    given = parser.parse_args()
    # Ended from outside it still takes its cluster down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print_at_once()
    names = [given.only] if given.only else list(PLAYS)
    kept = [played(name) for name in names]
    sys.exit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()
