"""The router's figures: time of a decision, and, given data, accuracy on rows and tasks unseen.

    python tests/bench/router.py [DATA...] [--folds 4] [--no-encoder]

Times are of the pure core on one thread; CPU time stands beside the wall clock, since the
machine may be shared. Accuracy is by cross-validation, once with rows and once with whole tasks
kept from training: the mean over the folds and its standard error.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# This folder goes first of all: in it this very file would be `router`.
sys.path[:1] = [str(Path(__file__).parents[2])]

import numpy as np

from router.arrays import Floats
from router.candidate import Candidate
from router.data import Row, read_rows
from router.encoder import Encoder, load_encoder
from router.forest import Growth
from router.learner import Lesson
from router.live import Judged, LiveRouter, Question
from router.objective import Menu, Verifier
from router.reading import Reading
from router.report import evaluate
from router.store import shipped_model
from router.train import see, train

CANDIDATES = (
    Candidate("mixtral-8x7b", cost=0.0002),
    Candidate("gpt-4-1106", cost=0.01),
    Candidate("google/gemini-2.5-pro"),
    Candidate("a new one", strength=0.7, cost=0.002),
)
MENU = Menu(frozenset({"gpt-4-1106", "google/gemini-2.5-pro"}), Verifier())
TEXT = "a train leaves the station and how many of its 12 cars are full after 3.5 hours"


class Remembering(Encoder):
    """An encoder that meets each prompt once."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[str, Floats] = {}

    def encode(self, readings: Sequence[Reading]) -> Floats:
        for one in readings:
            if one.text not in self._known:
                self._known[one.text] = self._encoder.encode([one])[0]
        return np.array([self._known[one.text] for one in readings])


def prompts(count: int) -> list[str]:
    """Made-up prompts of 5 to 600 words."""
    generator = np.random.default_rng(0)
    lengths = np.geomspace(5, 600, count).astype(int)
    generator.shuffle(lengths)
    return [" ".join(generator.choice(TEXT.split(), length)) + "?" for length in lengths]


def clocked(act: Callable[[str], object], texts: Sequence[str]) -> tuple[list[float], list[float]]:
    walls, works = [], []
    for text in texts:
        wall, work = time.perf_counter(), time.thread_time()
        act(text)
        walls.append((time.perf_counter() - wall) * 1e3)
        works.append((time.thread_time() - work) * 1e3)
    return walls, works


def taught(encoder: Encoder | None) -> LiveRouter:
    """The shipped weights, with lessons about every candidate."""
    live = LiveRouter(shipped_model(), encoder)
    for number, text in enumerate(prompts(20)):
        plan = live.decide(Question(text, CANDIDATES, menu=MENU), 0.0, 0.99)
        for name, expected in plan.expected.items():
            lesson = Lesson(name, plan.context, plan.eye, expected, float(number % 2))
            live.fold(Judged(lesson, plan.predicted[name]))
    return live


def time_decisions(encoder: Encoder | None, count: int) -> None:
    live = taught(encoder)

    def act(text: str) -> None:
        live.decide(Question(text, CANDIDATES, menu=MENU), 0.0, 0.99)

    name = "with the encoder" if encoder else "without the encoder"
    texts = prompts(count)
    clocked(act, [f"{text}!" for text in texts[:20]])
    for clock, times in zip(("wall", "cpu"), clocked(act, texts), strict=True):
        p50, p95 = np.percentile(times, [50, 95])
        print(f"{name:20} {clock:4}  p50 {p50:7.3f} ms  p95 {p95:7.3f} ms")
    # Other prompts than before: the encoder remembers those.
    others, began = [f"So {text}" for text in texts], time.perf_counter()
    with ThreadPoolExecutor(2) as two:
        deque(two.map(act, others), 0)
    rate = count / (time.perf_counter() - began)
    print(f"{name:20} {rate:7.0f} a second from two threads")


def folds(rows: Sequence[Row], by_task: bool, count: int) -> Iterator[list[int]]:
    """Numbers of the rows to keep from training, fold by fold."""
    names = [f"{row.source}/{row.task}" if by_task else str(i) for i, row in enumerate(rows)]
    distinct = sorted(set(names))
    fold = dict(
        zip(distinct, np.random.default_rng(1).permutation(len(distinct)) % count, strict=True)
    )
    for number in range(count):
        yield [index for index, name in enumerate(names) if fold[name] == number]


def measure(rows: list[Row], encoder: Encoder | None, count: int) -> None:
    seen = see([row.prompt for row in rows], encoder)
    for by_task in (False, True):
        figures: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for kept in folds(rows, by_task, count):
            others = sorted(set(range(len(rows))) - set(kept))
            model = train(
                [rows[i] for i in others], growth=Growth(trees=60), seen=seen.take(np.array(others))
            )
            families: dict[tuple[str, ...], list[Row]] = defaultdict(list)
            for index in kept:
                families[tuple(sorted(rows[index].outcomes))].append(rows[index])
            for models, some in families.items():
                for eye in (encoder, None) if encoder else (None,):
                    try:
                        report = evaluate(model, some, encoder=eye)
                    except ValueError:
                        continue
                    how = "encoder" if report.encoder else "plain"
                    named = {**report.figures, **{f"({n})": v for n, v in report.baselines.items()}}
                    for name, figure in named.items():
                        if figure.value is not None:
                            figures[f"{len(models)} models", how, name].append(figure.value)
        print(f"\n{'unseen tasks' if by_task else 'random rows'}, {count} folds")
        for (models_, how, name), values in sorted(figures.items()):
            error = np.std(values) / np.sqrt(len(values))
            print(f"  {models_} {how:8} {name:28} {np.mean(values):8.4f} +- {error:.4f}")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--no-encoder", action="store_true")
    parser.add_argument("--decisions", type=int, default=400)
    asked = parser.parse_args()
    encoder = None if asked.no_encoder else load_encoder()
    time_decisions(None, asked.decisions)
    if encoder is not None:
        time_decisions(encoder, asked.decisions)
    if asked.data:
        measure(read_rows(asked.data), encoder and Remembering(encoder), asked.folds)


if __name__ == "__main__":
    main()
