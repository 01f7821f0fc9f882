"""Whether a fusion helps, on the real small model: 100 short questions with known answers, asked
of a panel, of the model alone, of the model fused with itself, and of the judge alone.
`make evidence` (an hour on two cores)

Each answer is written to `answers.jsonl` in the folder that is given; a run that was cut off goes
on from there. The model is weak, so the figures say what fusing does to a weak model and nothing
about strong ones. An answer is right if, of the numbers in it, the last is an accepted one, or if
it has an accepted word.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[2]))

from support import print_at_once, serving

from serve.statistics import Interval, bootstrap, paired, wilson

QUESTIONS = Path(__file__).with_name("questions.jsonl")
AT_ONCE = 8
CATALOG = """
models:
  smollm2:
    engine: vllm
    source: package:smollm2
    accelerator: cpu
    cpus: 1
    context: 8192
    max_output: 512
    engine_args:
      override_generation_config: {temperature: 0.2, top_p: 0.9}
    price: {input: 0.01, output: 0.02}
panels:
  fused:
    analysis_tokens: 256
    members:
      - {model: smollm2, persona: Work step by step., temperature: 0.2, max_tokens: 64}
      - {model: smollm2, persona: Answer in one word., temperature: 0.6, max_tokens: 64}
      - {model: smollm2, persona: Doubt the obvious., temperature: 0.9, max_tokens: 64}
  itself: {analysis_tokens: 256, self: 3, members: [{model: smollm2, max_tokens: 64}]}
  alone: {members: [smollm2], answer: judge_only}
roles: {judge: smollm2}
"""
#: What is compared, and the name that asks for it. The model is sampled as its maker says, so
#: alone and the judge alone are the same thing asked twice: how far chance moves a figure.
WAYS = {
    "fused": "fusion/fused",
    "self-fused": "fusion/itself",
    "solo": "smollm2",
    "judge alone": "fusion/alone",
}


def main() -> None:
    print_at_once()
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "evidence")
    folder.mkdir(parents=True, exist_ok=True)
    questions = [json.loads(line) for line in QUESTIONS.read_text("utf-8").splitlines()]
    answers = folder / "answers.jsonl"
    if missing(questions, read(answers)):
        with tempfile.TemporaryDirectory() as place, serving(CATALOG, Path(place)) as server:
            asyncio.run(ask_all(server.url, questions, answers))
    report(questions, read(answers))


def read(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The answers so far, by way and question. A line that was cut off is asked again."""
    known = {}
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        try:
            one = json.loads(line)
            known[one["way"], one["id"]] = one
        except (ValueError, KeyError):
            continue
    return known


def missing(questions: list[Any], known: dict[Any, Any]) -> list[tuple[str, Any]]:
    """What is still to be asked. The ways take turns, so that the machine's moods are shared."""
    return [(way, one) for one in questions for way in WAYS if (way, one["id"]) not in known]


async def ask_all(url: str, questions: list[Any], file: Path) -> None:
    todo = missing(questions, read(file))
    gate = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        with file.open("a", encoding="utf-8") as sink:

            async def one(number: int, way: str, asked: Any) -> None:
                async with gate:
                    sink.write(json.dumps(await ask(client, way, asked)) + "\n")
                    sink.flush()
                if number % 40 == 0:
                    print(f"   {number} of {len(todo)} begun")

            await asyncio.gather(*(one(number, *two) for number, two in enumerate(todo)))


async def ask(client: httpx.AsyncClient, way: str, asked: Any) -> dict[str, Any]:
    body = {"model": WAYS[way], "max_tokens": 64}
    body["messages"] = [{"role": "user", "content": asked["question"]}]
    began = time.perf_counter()
    response = await client.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    told = response.json()
    text = told["choices"][0]["message"]["content"] or ""
    return {
        "way": way,
        "id": asked["id"],
        "text": text,
        "right": right(text, asked["answers"]),
        "seconds": time.perf_counter() - began,
        "usd": float(told["fusion"]["cost_usd"]),
    }


def right(text: str, accepted: list[str]) -> bool:
    numbers = re.findall(r"\d+", text)
    if accepted[0].isdigit() and numbers:
        return numbers[-1] in accepted
    words = re.findall(r"\w+", text.lower())
    if len(accepted[0]) == 1:
        # A letter is a word of many sentences: it counts where it is the answer.
        return bool(words) and words[-1] == accepted[0].lower()
    return any(one.lower() in words for one in accepted)


def report(questions: list[Any], known: dict[tuple[str, str], dict[str, Any]]) -> None:
    print(f"{len(questions)} questions; 95% intervals in brackets")
    print(f"{'':12} {'right':>20} {'micro-dollars':>22} {'seconds':>20}   beside solo")
    solo = [known["solo", one["id"]]["right"] for one in questions]
    for way in WAYS:
        found = [known[way, one["id"]] for one in questions]
        rights = [bool(one["right"]) for one in found]
        share = wilson(sum(rights), len(rights))
        money = bootstrap([one["usd"] * 1e6 for one in found])
        seconds = bootstrap([one["seconds"] for one in found])
        gain = paired([float(one) for one in rights], [float(one) for one in solo])
        print(
            f"{way:12} {shown(share, 100, 0, '%'):>20} {shown(money, 1, 2):>22} "
            f"{shown(seconds, 1, 2):>20}   {shown(gain, 100, 0, ' points')}"
        )


def shown(one: Interval, times: float, places: int, unit: str = "") -> str:
    value, low, high = (f"{times * x:.{places}f}" for x in (one.value, one.low, one.high))
    return f"{value}{unit} [{low}, {high}]"


if __name__ == "__main__":
    main()
