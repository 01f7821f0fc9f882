"""A batch of real questions on the packaged model: beside the engine alone, and killed.

    python tests/bench/batch_engine.py [--rows 200] [--kill]

Without --kill: the same questions go to vLLM's offline engine in a process of its own (before and
after, because the machine drifts) and through `fusion batch`; printed are generated tokens a
second. With it: the batch's driver is killed by SIGKILL half-way and the batch resumed.

The questions are sums told as stories, made from a seed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# This folder goes first of all otherwise, and in it lies another `router`.
sys.path[:1] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from support import Server, fusion, print_at_once, serving

from models import weights
from serve.jobs.remote import Remote

TOKENS, AT_ONCE = 64, 256
_PEOPLE = ("Ada", "Ben", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana")
_THINGS = ("apples", "books", "coins", "marbles", "pencils", "stamps", "tickets", "shells")
_OFFLINE = """
import json, sys, time
from vllm import LLM, SamplingParams
from models.workforce.vllm import cpu_dtype, cpu_flags
model, tokens = sys.argv[1], int(sys.argv[2])
chats = [[{"role": "user", "content": one}] for one in json.load(sys.stdin)]
llm = LLM(model=model, dtype=cpu_dtype(cpu_flags()), max_model_len=8192, enforce_eager=True)
how = SamplingParams(temperature=0, max_tokens=tokens)
llm.chat(chats[:4], how, use_tqdm=False)
began = time.perf_counter()
answers = llm.chat(chats, how, use_tqdm=False)
seconds = time.perf_counter() - began
made = sum(len(one.outputs[0].token_ids) for one in answers)
print(json.dumps({"seconds": seconds, "tokens": made}))
"""


def questions(rows: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    told = []
    for number in range(rows):
        who, other = draw.sample(_PEOPLE, 2)
        thing, has, more, gone = draw.choice(_THINGS), *(draw.randint(3, 90) for _ in range(3))
        told.append(
            f"Question {number}. {who} has {has} {thing}. {other} brings {more} more, and "
            f"{gone % has} are lost. How many {thing} are left? Explain each step in a sentence."
        )
    return told


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--kill", action="store_true")
    asked = parser.parse_args()
    print_at_once()
    catalog = (Path(__file__).parents[2] / "fusion.yaml").read_text(encoding="utf-8")
    # As docs/batch.md advises for batches, and as many as the offline engine has at work.
    catalog, changed = re.subn(r"max_ongoing: \d+", f"max_ongoing: {AT_ONCE}", catalog)
    assert changed == 1
    weights.prepare("package:smollm2")
    with tempfile.TemporaryDirectory() as folder:
        if asked.kill:
            with serving(catalog, Path(folder)) as server:
                killed(server, asked.rows, Path(folder))
            return
        asking = questions(asked.rows, seed=0)
        before = offline(asking)
        with serving(catalog, Path(folder)) as server:
            warm = Remote(server.url)
            batched(warm, questions(16, seed=2))
            ours = batched(warm, asking)
        after = offline(asking)
        beside = ours / ((before + after) / 2)
        print(f"the batch keeps {beside:.1%} of the engine's own  (promise: at least 95%)")


def offline(asking: list[str]) -> float:
    """Generated tokens a second of the engine alone, all questions at once."""
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as home:
        said = subprocess.run(
            [sys.executable, "-c", _OFFLINE, weights.locate("package:smollm2"), str(TOKENS)],
            input=json.dumps(asking).encode(),
            env=environment | {"HOME": home},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        ).stdout
    # vLLM logs to the same place.
    told = json.loads(next(line for line in said.splitlines() if line.startswith(b'{"seconds"')))
    return _rate("vLLM's offline engine", told["tokens"], told["seconds"])


def _rate(name: str, tokens: int, seconds: float) -> float:
    print(f"{name:22} {tokens:6} tokens in {seconds:6.1f} s: {tokens / seconds:6.1f} tokens/s")
    return tokens / seconds


def _lines(asking: list[str]) -> bytes:
    rows = [
        {"id": f"q{number}", "prompt": one, "temperature": 0, "max_tokens": TOKENS}
        for number, one in enumerate(asking)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


def batched(remote: Remote, asking: list[str]) -> float:
    """The same of a batch, from its runner's first look at the store to its last file."""
    file = remote.upload("in.jsonl", _lines(asking))
    card = remote.create(file, window="1h", model="smollm2")
    card = remote.wait(card["id"], lambda _: None)
    assert card["request_counts"]["completed"] == len(asking), card
    rows = list(remote.rows(card["id"]))
    (seconds,) = re.findall(r"\((\d+\.\d) s\)", remote.text(f"/v1/batches/{card['id']}/logs"))
    return _rate("fusion batch", sum(row["output_tokens"] for row in rows), float(seconds))


def killed(server: Server, rows: int, folder: Path) -> None:
    """What a person sees: submit, a kill half-way, resume."""
    source, out = folder / "questions.jsonl", folder / "out"
    source.write_bytes(_lines(questions(rows, seed=1)))
    remote = Remote(server.url)

    def run(*words: str) -> dict[str, Any]:
        print("$ fusion batch", *words)
        command = fusion("batch", *words, "--url", server.url, "--json")
        said = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        card: dict[str, Any] = json.loads(said.stdout)
        return card

    batch = run("submit", source.name, "--model", "smollm2", "--out", out.name, "--detach")["id"]
    while (card := remote.get(f"/v1/batches/{batch}"))["request_counts"]["completed"] < rows // 2:
        time.sleep(0.1)
    for pid in server.processes("serve.jobs.main"):
        if Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip() != "sh":
            os.kill(pid, signal.SIGKILL)
    flying = card["fusion"]["running"]
    print(f"driver killed: {card['request_counts']}, {flying} in flight")
    while not remote.get(f"/v1/batches/{batch}")["fusion"]["interrupted"]:
        time.sleep(0.5)
    card = run("resume", batch, "--out", out.name)
    written = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["id"] for row in written] == [f"q{number}" for number in range(rows)]
    seconds = card["completed_at"] - card["in_progress_at"]
    print(
        f"{card['status']}: {card['request_counts']}, {len(written)} rows, {seconds:.0f} s in all"
    )
    print(f"tokens {card['fusion']['tokens']}, spent {card['fusion']['spent_usd']} USD")
    again = run("submit", source.name, "--model", "smollm2")["fusion"]
    print(f"the same once more: {again['reused']} reused, {again['spent_usd']} USD")
    print(f"for example: {written[0]['answer']!r}")


if __name__ == "__main__":
    main()
