"""A batch on a real Ray cluster: its driver, a gateway, a model and the head are killed in turn.

    python tests/bench/batch_cluster.py [--rows 600]

Each is ended by SIGKILL while rows are in flight. A gateway and a model's replica are replaced by
Serve while the batch goes on; after the driver's end the batch is resumed, after the head's the
cluster is started again and the batch resumed. In the end there must be one row an id, and what
the ledger paid must be what the rows cost, but for calls that were in flight at a kill.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# This folder goes first of all otherwise, and in it lies another `router`.
sys.path[:1] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import httpx
from support import Server, print_at_once, spawn, stop, wait_ready

from serve.jobs.remote import Card, Remote

CATALOG = """
models:
  slow:
    {engine: fake, cpus: 0.1, replicas: 2, max_ongoing: 8, first_token_s: 0.5,
     price: {input: 1000, output: 2000}}
roles: {judge: slow}
"""
#: Whom to kill, and how its processes are called.
VICTIMS = {
    "driver": "serve.jobs.main",
    "gateway": ":Gateway",
    "model": "ServeReplica:model-slow",
    "head": "gcs_server",
}


def main() -> None:
    """Print what each kill left, and what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=600)
    asked = parser.parse_args()
    print_at_once()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        catalog = folder / "catalog.yaml"
        catalog.write_text(CATALOG, encoding="utf-8")
        server = spawn(catalog, folder)
        try:
            wait_ready(server)
            remote = Remote(server.url)
            ids = [f"row-{number}" for number in range(asked.rows)]
            lines = [json.dumps({"id": one, "prompt": f"question {one}"}).encode() for one in ids]
            file = remote.upload("in.jsonl", b"\n".join(lines))
            batch = remote.create(file, window="1h", model="slow")["id"]
            in_flight = 0
            for number, (victim, name) in enumerate(VICTIMS.items()):
                goal = asked.rows * (number + 1) // (len(VICTIMS) + 2)
                card = until(partial(_past, remote, batch, goal))
                in_flight += card["fusion"]["running"]
                kill(server, name)
                done = card["request_counts"]["completed"]
                print(f"{victim:8} killed at {done} rows, {card['fusion']['running']} in flight")
                if victim == "head":
                    stop(server)
                    server = spawn(catalog, folder, port=server.port)
                    wait_ready(server)
                if victim in ("driver", "head"):
                    until(lambda: _look(remote, batch)["fusion"]["interrupted"], 60)
                    remote.post(f"/v1/batches/{batch}/resume", {"completion_window": "1h"})
            card = remote.wait(batch, lambda _: None)
            show(remote, card, ids, in_flight)
        finally:
            stop(server)


def until(done: Callable[[], Any], seconds: float = 120.0) -> Any:
    """What `done` returns once it is something."""
    end = time.monotonic() + seconds
    while not (found := done()):
        if time.monotonic() > end:
            raise SystemExit(f"not within {seconds:.0f} s")
        time.sleep(0.1)
    return found


def _look(remote: Remote, batch: str) -> Card:
    return remote.get(f"/v1/batches/{batch}")


def _past(remote: Remote, batch: str, rows: int) -> Card | None:
    card = _look(remote, batch)
    ahead = card["request_counts"]["completed"] >= rows and card["fusion"]["running"]
    return card if ahead else None


def kill(server: Server, name: str) -> None:
    """The first process of this name that is not the shell around it."""
    found = [pid for pid in server.processes(name) if _program(pid) != "sh"]
    if not found:
        raise SystemExit(f"nothing called {name} runs")
    os.kill(found[0], signal.SIGKILL)


def _program(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip()


def show(remote: Remote, card: Card, ids: list[str], in_flight: int) -> None:
    rows = list(remote.rows(card["id"]))
    assert [row["id"] for row in rows] == ids, "not one row an id"
    counts = card["request_counts"]
    print(f"{card['status']}: {len(rows)} rows for {len(ids)} ids, {counts}")
    usage = httpx.get(f"{remote.base}/v1/usage?by=job", timeout=30).json()
    (paid,) = [row for row in usage["data"] if row["job"] == card["id"]]
    again = paid["calls"] - counts["completed"]
    print(f"calls paid: {paid['calls']}, {again} of them again ({in_flight} were in flight)")
    assert counts["completed"] == len(ids)
    assert again <= in_flight, "a call was repeated that was not in flight"


if __name__ == "__main__":
    main()
