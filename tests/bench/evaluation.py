"""How long 4,000 criteria take to be judged with fakes that answer at once.

python tests/bench/evaluation.py [--criteria 4000]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    # This folder goes first of all otherwise, and in it lies another `router`.
    sys.path[:1] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import batch_server
from typer.testing import CliRunner

from models.messages import Completion, Stage, Usage, assistant
from serve.cli import app
from serve.jobs.asking import Ask, Reply
from serve.jobs.fake import FakeAsker

PROMISED_S = 60.0


def reply(ask: Ask) -> Reply:
    """An answer, or a verdict where one is asked for."""
    request = ask[0]
    text = '{"reason": "it is", "verdict": "MET"}' if request.response_format else "An answer."
    stage = Stage("answer", request.model, Usage(10, 5), nano_usd=10)
    return Completion(request.model, assistant(text), stages=(stage,))


def tasks(criteria: int) -> str:
    """As many tasks of forty criteria as that makes."""
    lines = []
    for number in range(criteria // 40):
        sections = [
            {
                "id": f"s{section}",
                "title": f"Section {section}",
                "criteria": [
                    {"id": f"c{section}-{n}", "weight": 10, "requirement": f"says {section} {n}"}
                    for n in range(10)
                ],
            }
            for section in range(4)
        ]
        answer = json.dumps({"id": "r", "sections": sections})
        line = {"id": f"t{number}", "problem": f"Why {number}?", "answer": answer, "domain": "d"}
        lines.append(json.dumps(line))
    return "\n".join(lines)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--criteria", type=int, default=4000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, systems = Path(folder, "draco.jsonl"), Path(folder, "systems.yaml")
        data.write_text(tasks(asked.criteria))
        systems.write_text("systems: {one: {model: one}}")
        with batch_server.serving(Path(folder), FakeAsker(reply, keeps=False)) as url:
            command = ["draco", "run", "--data", str(data), "--systems", str(systems)]
            began = time.monotonic()
            done = CliRunner().invoke(app, [*command, "--judge", "j", "--url", url, "--json"])
            seconds = time.monotonic() - began
        assert done.exit_code == 0, done.output
        verdicts = asked.criteria * 3
        kept = "kept" if seconds < PROMISED_S * asked.criteria / 4000 else "NOT kept"
        print(
            f"{asked.criteria} criteria, three runs each: {verdicts} verdicts in {seconds:.1f} s, "
            f"{seconds / 3:.1f} s for one run of each "
            f"(promised: 4,000 in under {PROMISED_S:.0f} s, {kept}; load {os.getloadavg()[0]:.0f})"
        )


if __name__ == "__main__":
    main()
