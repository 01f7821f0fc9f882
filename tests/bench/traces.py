"""Traces to judge a scaling policy on that were not there when it was made: one given trace
bent in several ways, and loads made from a seed.

python tests/bench/scaling.py --trace TRACE.csv --profile PROFILE.yaml --suite
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

from cluster.simulation.trace import Trace, make_trace

Row = tuple[float, int, int]
Rate = Callable[[float], float]


def suite(given: Trace) -> dict[str, tuple[Trace, int]]:
    """Trace and rate_scale by name. `given` is the trace as read, not rescaled."""
    rows = list(zip(given.arrival_s, given.prompt_tokens, given.generated_tokens, strict=True))
    last = given.duration_s
    chance = random.Random(7)
    return {
        "given": (given, 10),
        "reversed": (make_trace([(last - at, p, g) for at, p, g in reversed(rows)]), 10),
        "slower": (make_trace([(3 * at, p, g) for at, p, g in rows]), 10),
        "faster": (make_trace([(at / 2, p, g) for at, p, g in rows]), 5),
        "shuffled": (make_trace(_shuffled(rows, last, chance)), 10),
        "thinned": (make_trace(rows[::8]), 10),
        "low rate": (given, 1),
        "diurnal": (make_trace(_poisson(rows, _diurnal, 14_400, chance)), 5),
        "step": (make_trace(_poisson(rows, _step, 3600, chance)), 10),
        "bursty": (make_trace(_poisson(rows, _bursts(chance, 3600), 3600, chance)), 10),
        "code": (make_trace(_code(chance, 3600)), 10),
        "wandering": (make_trace(_poisson(rows, _wandering(chance, 5400), 5400, chance)), 8),
        "drifting sizes": (make_trace(_drifting(rows, 4500, chance)), 8),
        "editor": (make_trace(_editor(random.Random(11), 3436)), 10),
        "api": (make_trace(_api(random.Random(12), 5400)), 5),
        "two services": (make_trace(_two_services(rows, 10_800, random.Random(13))), 10),
    }


def _shuffled(rows: list[Row], last: float, chance: random.Random) -> list[Row]:
    """Blocks of five minutes in another order."""
    block = 300.0
    order = list(range(math.ceil(last / block)))
    chance.shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    moved = [(place[int(at / block)] * block + at % block, p, g) for at, p, g in rows]
    return sorted(moved)


def _poisson(rows: list[Row], rate: Rate, seconds: float, chance: random.Random) -> Iterator[Row]:
    """Requests of the given sizes at a Poisson rate that changes with time."""
    at = 0.0
    while True:
        at += chance.expovariate(max(rate(at), 1e-3))
        if at > seconds:
            return
        _, prompt, generated = chance.choice(rows)
        yield at, prompt, generated


def _diurnal(at: float) -> float:
    """A day in four hours: five requests a second in the mean, a tenth of the peak at night."""
    return 5.0 - 4.0 * math.cos(2 * math.pi * at / 14_400)


def _step(at: float) -> float:
    return 4.0 if at < 1500 or at > 2700 else 6.5


def _bursts(chance: random.Random, seconds: float) -> Rate:
    """Quiet for minutes, then half as much again for half a minute to three."""
    edges: list[tuple[float, float, float]] = []
    at = 0.0
    while at < seconds:
        at += chance.expovariate(1 / 240)
        length = chance.uniform(30, 180)
        edges.append((at, at + length, chance.uniform(1.3, 2.0)))
        at += length
    return lambda now: 4.0 * next((f for a, b, f in edges if a <= now < b), 1.0)


def _wandering(chance: random.Random, seconds: float) -> Rate:
    """Nothing but chance: the logarithm of the rate is a walk that comes back in five minutes."""
    steps, level = [], 0.0
    for _ in range(math.ceil(seconds / 5) + 1):
        steps.append(5.0 * math.exp(level))
        level += -level * 5 / 300 + chance.gauss(0, 0.25 * math.sqrt(2 * 5 / 300))
    return lambda at: steps[min(int(at / 5), len(steps) - 1)]


def _drifting(rows: list[Row], seconds: float, chance: random.Random) -> Iterator[Row]:
    """A steady rate whose requests grow to three times their work and shrink again, twice."""
    by_work = sorted(rows, key=lambda row: row[1] + 9 * row[2])
    at = 0.0
    while True:
        at += chance.expovariate(5.0)
        if at > seconds:
            return
        middle = 0.5 - 0.25 * math.cos(4 * math.pi * at / seconds)
        place = min(1.0, max(0.0, chance.gauss(middle, 0.15)))
        _, prompt, generated = by_work[round(place * (len(by_work) - 1))]
        yield at, prompt, generated


def _code(chance: random.Random, seconds: float) -> Iterator[Row]:
    """Long prompts, short answers, as from an editor: the rate wanders, and is never smooth."""
    at, level = 0.0, 0.0
    change = 0.0
    while at < seconds:
        if at >= change:
            change = at + chance.uniform(5, 20)
            level = 0.8 * level + chance.gauss(0, 0.35)
        at += chance.expovariate(2.5 * math.exp(level))
        prompt = min(7000, max(50, int(chance.lognormvariate(7.4, 0.7))))
        generated = min(800, max(1, int(chance.lognormvariate(2.7, 1.0))))
        yield at, prompt, generated


# Made after published facts about other traces of the field, once the rule was chosen.


def _editor(chance: random.Random, seconds: float) -> Iterator[Row]:
    """As the Azure LLM inference trace of a code service (2023): 8,819 requests in 3,436 s, at its
    start four within 0.15 s; prompts of about 1,500 tokens in the median, 2,050 in the mean and
    7,400 at most; answers of 13 and 28 (the notebook of Azure/AzurePublicDataset; Patel et al.,
    Splitwise, ISCA 2024). How the rate changes over minutes is made up."""
    mean_gap_s = 3436 / 8819
    at, level, change = 0.0, 0.0, 0.0
    while at < seconds:
        if at >= change:
            change += 30
            level = 0.8 * level + chance.gauss(0, 0.25)
        at += chance.gammavariate(0.5, 2 * mean_gap_s) / math.exp(level)
        yield at, *_code_sizes(chance)


def _code_sizes(chance: random.Random) -> tuple[int, int]:
    """Drawn again where longer than the longest, which leaves 1,540 and 1,980 tokens of prompt."""
    while True:
        prompt = chance.lognormvariate(math.log(1600), 0.85)
        generated = chance.lognormvariate(math.log(13), math.sqrt(2 * math.log(28 / 13)))
        if prompt <= 7437 and generated <= 2000:
            return max(3, int(prompt)), max(1, int(generated))


def _api(chance: random.Random, seconds: float) -> Iterator[Row]:
    """As BurstGPT (Wang et al., 2024; HPMLL/BurstGPT) models its requests: gaps with a gamma
    distribution whose shape and scale change with time, sizes with a heavy tail. Here each of both
    is drawn anew every five minutes, between Poisson and twice its deviation; a few hundred tokens
    are read and written, as in the rows that the dataset shows, within the 4,096 of ChatGPT's
    window then."""
    at, change, shape, rate = 0.0, 0.0, 1.0, 2.5
    while at < seconds:
        if at >= change:
            change += 300
            shape, rate = chance.uniform(0.25, 1.0), 2.5 * chance.lognormvariate(0, 0.35)
        at += chance.gammavariate(shape, 1 / (shape * rate))
        prompt, generated = 4096, 0
        while prompt + generated >= 4096:
            prompt = int(150 * chance.paretovariate(0.9))
            generated = max(1, int(chance.lognormvariate(5.3, 0.8)))
        yield at, prompt, generated


def _two_services(rows: list[Row], seconds: float, chance: random.Random) -> Iterator[Row]:
    """As the Azure traces of May 2024 (Stojkovic et al., DynamoLLM, HPCA 2025) a conversation and a
    code service, each with its own day, here on one model: code is written in working hours and
    hardly at night, conversations follow a flatter day that ends later. A day in three hours; how
    much is asked at which hour is made up."""
    at = 0.0
    while True:
        hour = 24 * at / seconds
        talk = 0.8 - 0.5 * math.cos(2 * math.pi * (hour - 4) / 24)
        code = 0.05 + (max(0.0, math.sin(math.pi * (hour - 7) / 12)) if 7 < hour < 19 else 0.0)
        at += chance.expovariate(talk + code)
        if at > seconds:
            return
        if chance.random() < code / (talk + code):
            yield at, *_code_sizes(chance)
        else:
            _, prompt, generated = chance.choice(rows)
            yield at, prompt, generated
