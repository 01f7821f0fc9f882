"""Scaling by queue depth and cost on real Ray: replicas that come and go for fake models, one
budget over two of them, spill-over to a third and back, and a timeline of it all.

`pytest tests/integration/fleet/test_scaling.py -s` prints the timeline.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from support import Server, fusion, serving

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

# A replica answers 4 requests at once in 0.8 s each: 5 a second. It costs a dollar an hour.
_SCALING = """
      node: {usd_per_hour: 1.0, startup_s: 4}
      replica:
        prefill_tokens_per_s: 1000
        decode: {step_base_s: 0.04, step_per_sequence_s: 0.04, max_batch: 4}
      targets: {ttft_s: 1.0}
      late_usd: 0.00002
"""
CATALOG = f"""
fleet: {{usd_per_hour: 3}}
models:
  own:
    engine: fake
    cpus: 0.1
    reply: "a b c d"
    token_s: 0.2
    first_token_s: 0.2
    max_ongoing: 4
    max_queued: 200
    replicas: {{min: 0, max: 5}}
    scaling: {_SCALING}      spill: [remote]
  beside:
    engine: fake
    cpus: 0.1
    reply: "a b c d"
    token_s: 0.2
    max_ongoing: 4
    replicas: {{min: 0, max: 5}}
    scaling: {_SCALING}
  remote: {{engine: fake, cpus: 0.1, reply: "from elsewhere", max_ongoing: 200,
           price: {{input: 0.01, output: 0.01}}}}
aliases: {{default: own}}
roles: {{judge: remote}}
"""


@dataclass
class Timeline:
    """What was asked and what the rule decided, second by second."""

    server: Server
    began: float = field(default_factory=time.monotonic)
    answered: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    most_usd: float = 0.0
    most: Counter[str] = field(default_factory=Counter)
    running: dict[str, int] = field(default_factory=dict)
    rows: list[str] = field(default_factory=list)

    def look(self) -> dict[str, int]:
        told = httpx.get(f"{self.server.url}/healthz", timeout=10).json()["parts"]
        self.running = {
            n: told.get(f"Workforce:{n}", {}).get("replicas", 0) for n in ("own", "beside")
        }
        usd = float(sum(self.running.values()))
        self.most_usd = max(self.most_usd, usd)
        for name, count in self.running.items():
            self.most[name] = max(self.most[name], count)
        shown = " ".join(f"{w}={n}" for w, n in sorted(self.answered.items()))
        self.rows.append(
            f"{time.monotonic() - self.began:5.1f} s  {self.running}  ${usd:g}/h  {shown}"
        )
        return self.running

    def until(self, seconds: float, **wanted: int) -> None:
        """Look twice a second until so many replicas run."""
        end = time.monotonic() + seconds
        while {n: self.look()[n] for n in wanted} != wanted:
            assert time.monotonic() < end, f"not {wanted} within {seconds} s:\n{self}"
            time.sleep(0.5)

    def ask(self, model: str) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "one two three"}]}
        response = httpx.post(f"{self.server.url}/v1/chat/completions", json=body, timeout=60)
        if response.status_code == 200:
            self.answered[response.json()["model"]] += 1
        else:
            self.answered[str(response.status_code)] += 1
            self.failures.append(response.text)

    def __str__(self) -> str:
        """Without the looks that saw the same again."""
        kept = [
            row
            for row, before in zip(self.rows, ["", *self.rows], strict=False)
            if row[9:] != before[9:]
        ]
        return "\n".join(kept)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(CATALOG, tmp_path_factory.mktemp("scaling")) as running:
        yield running


def explained(server: Server) -> dict[str, Any]:
    command = fusion("status", "--scaling", "--json", "-p", str(server.port))
    told: dict[str, Any] = json.loads(subprocess.check_output(command, timeout=60))
    return told


def test_a_model_comes_from_zero_grows_within_the_budget_spills_and_rests(server: Server) -> None:
    seen = Timeline(server)
    stop = threading.Event()
    with ThreadPoolExecutor(40) as pool:

        def spike() -> None:
            # Twelve a second: what one or two replicas bear while the others start is less.
            while not stop.is_set():
                pool.submit(seen.ask, "own")
                time.sleep(1 / 12)

        seen.until(30, own=0, beside=0)
        feeder = threading.Thread(target=spike)
        feeder.start()
        try:
            seen.until(40, own=3)
            why = explained(server)
            os.kill(server.processes("Workforce:own")[0], signal.SIGKILL)
            seen.rows.append("         SIGKILL to one of the three")
            for _ in range(6):
                seen.look()
                time.sleep(0.5)
            seen.until(40, own=3)
            # The budget is used up: the other model must not wake.
            seen.ask("beside")
        finally:
            stop.set()
            feeder.join()
    refused = seen.failures.pop()
    seen.until(60, own=0)
    seen.ask("beside")
    seen.look()
    print(f"\n{seen}\n{why['own']}\n{refused}")
    assert seen.failures == []
    assert seen.most_usd <= 3.0
    assert seen.answered["own"] > 20, "it was answered here"
    assert seen.answered["remote"] > 5, "and elsewhere while there was no room"
    assert seen.answered["429"] == 1
    assert seen.answered["beside"] == 1
    assert "budget" in refused
    assert why["own"]["replicas_wanted"] == 3.0
    assert why["own"]["usd_per_hour"] <= 3.0
    assert why["own"]["why"]
