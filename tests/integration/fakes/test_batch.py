"""A batch as a Ray job on a real cluster: a worker and its driver are killed, and one row an id
comes out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import Server, fusion

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def until(done: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What `done` returns once it is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := done():
            return found
        time.sleep(0.1)
    raise AssertionError("not within the time")


def test_a_killed_worker_a_killed_driver_and_a_resumed_batch(
    server: Server, tmp_path: Path
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    ids = [f"row-{n}" for n in range(200)]
    rows = [{"id": name, "prompt": f"question {name}"} for name in ids]
    source.write_text("\n".join(map(json.dumps, rows)))
    at = ["--url", server.url]

    def run(*arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            fusion("batch", *arguments, *at, "--json"), capture_output=True, text=True, check=False
        )
        assert done.stdout, done.stderr
        card: dict[str, Any] = json.loads(done.stdout)
        return card

    batch = run("submit", str(source), "--model", "twin", "--out", str(out), "--detach")["id"]

    def card() -> dict[str, Any]:
        # Over HTTP: the command line takes longer to begin than this batch to end.
        told: dict[str, Any] = httpx.get(f"{server.url}/v1/batches/{batch}", timeout=30).json()
        return told

    until(lambda: 0 < card()["request_counts"]["completed"] < len(ids))
    # A model's replica dies under its rows, and is replaced while the batch goes on.
    os.kill(server.processes("ServeReplica:model-twin")[0], signal.SIGKILL)
    (driver,) = [pid for pid in server.processes("serve.jobs.main") if _is_python(pid)]
    os.kill(driver, signal.SIGKILL)
    assert card()["request_counts"]["completed"] < len(ids), "it ended before it was killed"
    until(lambda: card()["fusion"]["interrupted"])
    ended = run("resume", batch, "--out", str(out))
    assert ended["status"] == "completed"
    assert ended["request_counts"] == {"total": len(ids), "completed": len(ids), "failed": 0}
    written = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["id"] for row in written] == ids
    assert all(row["status"] == "done" and row["answer"] for row in written)
    # The same work again is there already, and costs nothing.
    again = run("submit", str(source), "--model", "twin")
    assert (again["fusion"]["reused"], again["request_counts"]["completed"]) == (200, 200)


def _is_python(pid: int) -> bool:
    """The driver itself, not the shell that Ray starts it with."""
    return "python" in Path(f"/proc/{pid}/exe").readlink().name
