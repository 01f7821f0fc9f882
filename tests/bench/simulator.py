"""The simulator beside a real engine: the packaged model is profiled, asked a trace, and simulated.

python tests/bench/simulator.py [--requests 90] [--load 0.6] [--seed 1]

1. `fusion up` with vLLM and the packaged model, one replica; `fusion profile` measures it.
2. Requests come by chance (Poisson) at `--load` of what the profile says one replica does, with a
   burst of three times that in the middle, and are asked as streams.
3. The same trace, with the tokens that the server reported, runs through the simulator's engine
   with the measured profile and one replica. Predicted and measured percentiles stand side by side.

It takes about five minutes, talks to loopback only, and stops by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import fusion, print_at_once, serving

from cluster.profile import Profile, read_profile
from cluster.simulation.engine import Engine
from cluster.simulation.simulator import percentile
from cluster.simulation.trace import Trace, make_trace
from models import weights
from serve.cli.profile import answer

MODEL, PLACES = "smollm2", 8
CATALOG = f"""
models:
  {MODEL}: {{engine: vllm, source: "package:smollm2", accelerator: cpu, cpus: 1, context: 2048,
            max_output: 256, max_ongoing: {PLACES}}}
roles: {{judge: {MODEL}}}
"""
WORDS, TOKENS = (40, 400), (8, 64)  # of a prompt and of an answer, at least and at most
BURST, BURST_SHARE = 3.0, 0.2  # times the rate, for this share of the requests
SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when, with how many words, for how many tokens."""

    at_s: float
    words: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of it: what the server counted, seconds to the first token and to the last."""

    prompt_tokens: int
    generated_tokens: int
    first_s: float
    whole_s: float


def planned(profile: Profile, count: int, load: float, chance: random.Random) -> list[Asked]:
    """Requests by chance, with the burst in the middle."""
    rates, at_s, found = profile.rates(), 0.0, list[Asked]()
    mean_s = rates.work_s(1.3 * sum(WORDS) / 2, sum(TOKENS) / 2)
    for number in range(count):
        in_burst = abs(number / count - 0.5) < BURST_SHARE / 2
        at_s += chance.expovariate(load / mean_s * (BURST if in_burst else 1.0))
        found.append(Asked(at_s, chance.randint(*WORDS), chance.randint(*TOKENS)))
    return found


async def really(url: str, plan: Sequence[Asked]) -> list[Seen]:
    """Ask the server, each request at its time."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300.0, limits=limits) as client:
        began = time.perf_counter()

        async def one(asked: Asked) -> Seen:
            await asyncio.sleep(asked.at_s - (time.perf_counter() - began))
            told = await answer(client, MODEL, asked.words, asked.tokens)
            later = told.step_s * max(0, told.generated_tokens - 1)
            return Seen(
                told.prompt_tokens, told.generated_tokens, told.first_s, told.first_s + later
            )

        return await asyncio.gather(*(one(asked) for asked in plan))


def simulated(trace: Trace, profile: Profile) -> list[Seen]:
    """The same from the simulator's engine, with one replica."""
    engine = Engine(trace, profile.rates(), profile.targets.ttft_s, lambda *_: "wait")
    engine.add(0, "on-demand", 0.0)
    engine.advance(trace.duration_s + 3600)
    assert engine.done
    return [
        Seen(prompt, generated, first - at, end - at)
        for at, prompt, generated, first, end in zip(
            trace.arrival_s,
            trace.prompt_tokens,
            trace.generated_tokens,
            engine.first_s,
            engine.end_s,
            strict=True,
        )
    ]


def side_by_side(measured: Sequence[Seen], predicted: Sequence[Seen], target_s: float) -> None:
    """Print what was measured, what was predicted, and how far off that is."""
    print(f"{'':24}{'measured':>10}{'predicted':>11}{'off by':>9}")
    for what, of in (
        ("first token", lambda one: one.first_s),
        ("whole answer", lambda one: one.whole_s),
    ):
        real, made = (sorted(map(of, seen)) for seen in (measured, predicted))
        for share in SHARES:
            a, b = percentile(real, share), percentile(made, share)
            print(f"{what} p{share * 100:<10g}{a:>10.2f} s{b:>9.2f} s{b / a - 1:>+9.0%}")
    real_share, made_share = (
        sum(one.first_s <= target_s for one in seen) / len(seen) for seen in (measured, predicted)
    )
    print(f"{f'first token in {target_s:g} s':24}{real_share:>10.1%}{made_share:>11.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=90)
    parser.add_argument("--load", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    # Ended from outside it still takes its cluster down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print_at_once()
    weights.prepare("package:smollm2")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "profile.yaml"
        with serving(CATALOG, folder) as server:
            command = fusion("profile", MODEL, "--usd-per-hour", "0.1", "--startup-s", "60")
            command += ["--max-batch", str(PLACES), "-o", str(file), "--url", server.url]
            subprocess.run(command, check=True, cwd=folder, timeout=300)
            print(file.read_text(encoding="utf-8"))
            profile = read_profile(file)
            chance = random.Random(given.seed)
            plan = planned(profile, given.requests, given.load, chance)
            measured = asyncio.run(really(server.url, plan))
    rows = zip(plan, measured, strict=True)
    trace = make_trace([(a.at_s, m.prompt_tokens, m.generated_tokens) for a, m in rows])
    print(
        f"{len(trace)} requests in {trace.duration_s:.0f} s, "
        f"{sum(trace.prompt_tokens) / len(trace):.0f} prompt and "
        f"{sum(trace.generated_tokens) / len(trace):.0f} generated tokens in the mean"
    )
    side_by_side(measured, simulated(trace, profile), profile.targets.ttft_s)


if __name__ == "__main__":
    main()
