"""`fusion eval` that is killed at random moments, each time begun again by the same command."""

from __future__ import annotations

import json
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import batch_server
from support import fusion

from models.messages import Completion, Stage, Usage, assistant
from serve.jobs.asking import Ask
from serve.jobs.fake import FakeAsker

ROWS, KILLS = 150, 3


def reply(ask: Ask) -> Completion:
    stage = Stage("answer", ask[0].model, Usage(10, 2), nano_usd=1_000_000)
    return Completion(ask[0].model, assistant("Answer: 1"), stages=(stage,))


def test_a_killed_evaluation_goes_on_and_pays_for_nothing_twice(tmp_path: Path) -> None:
    lines = [
        {"id": n, "question": f"What is {n} - {n - 1}?", "kind": "number", "answer": 1}
        for n in range(ROWS)
    ]
    questions, systems = tmp_path / "questions.jsonl", tmp_path / "systems.yaml"
    questions.write_text("\n".join(map(json.dumps, lines)))
    systems.write_text("systems: {one: {model: one}}")
    asker, spread = FakeAsker(reply, seconds=0.03, room=1), random.Random(11)
    with batch_server.serving(tmp_path, asker) as url:
        words = ["eval", str(questions), "--systems", str(systems), "--url", url, "--json"]
        for _ in range(KILLS):
            process = subprocess.Popen(
                fusion(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(spread.uniform(1.0, 3.0))
            process.kill()
            process.wait()
        done = subprocess.run(fusion(*words), capture_output=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    [one] = told["systems"]
    assert (one["tasks"], one["score"]["value"]) == (ROWS, 1.0)
    # A kill leaves the batch at work, and the next command joins it: each question was asked once.
    assert len(asker.asked) == ROWS
