"""The router's figures: time of a decision, and, given data, accuracy on rows and tasks unseen.

    python tests/bench/router.py [DATA...] [--source NAME] [--folds 4] [--repeat 1] [--no-encoder]
    python tests/bench/router.py --hop

Times are of the pure core on one thread; CPU time stands beside the wall clock, since the
machine may be shared. With `--hop` the router's replica on Ray is asked the same.

Accuracy is by cross-validation, once with rows and once with whole tasks of the source (default:
of all) kept from training: the mean over the folds and its standard error. A mixture of constant
models is the best in hindsight, on the very rows that it is measured on; `constant` is the one
that the rows of training recommend, beside that best one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# This folder goes first of all: in it this very file would be `router`.
sys.path[:1] = [str(Path(__file__).parents[2])]

import numpy as np

from router.arrays import Floats
from router.candidate import Candidate
from router.data import Row, read_rows
from router.encoder import Encoder, load_encoder
from router.evaluate import Curve, constant_mixture
from router.forest import Growth
from router.learner import Lesson
from router.live import Judged, LiveRouter, Question
from router.objective import Menu, Verifier
from router.reading import Reading
from router.report import evaluate
from router.store import shipped_model
from router.train import see, train
from router.truth import truth_of

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


def time_hop(count: int) -> None:
    """Decisions of the router's replica in a cluster of its own, asked one after the other."""
    import ray
    from ray import serve as ray_serve

    from serve.remote import RouterReplica
    from serve.settings import Settings

    catalog = {
        "models": {"one": {"engine": "fake", "tier": "workforce"}},
        "roles": {"judge": "one"},
    }
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/store.db"
        settings = Settings.of({"catalog": catalog, "store": store}).model_dump(mode="json")
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        ray_serve.start(http_options={"location": "NoServer"})
        router = ray_serve.run(ray_serve.deployment(RouterReplica).bind(settings))

        def act(text: str) -> None:
            router.decide.remote(Question(text, CANDIDATES, menu=MENU)).result()

        texts = prompts(count)
        clocked(act, [f"{text}!" for text in texts[:20]])
        for name, asked in (("a new prompt", texts), ("the same once more", texts)):
            p50, p95 = np.percentile(clocked(act, asked)[0], [50, 95])
            print(f"{name:20} through Ray  p50 {p50:7.3f} ms  p95 {p95:7.3f} ms")
        ray_serve.shutdown()
        ray.shutdown()


def folds(rows: Sequence[Row], asked: argparse.Namespace, by_task: bool) -> Iterator[list[int]]:
    """Numbers of the rows to keep from training, fold by fold."""
    names = {
        index: f"{row.source}/{row.task}" if by_task else str(index)
        for index, row in enumerate(rows)
        if asked.source in (None, row.source)
    }
    distinct = sorted(set(names.values()))
    for turn in range(asked.repeat):
        order = np.random.default_rng(1 + turn).permutation(len(distinct)) % asked.folds
        fold = dict(zip(distinct, order, strict=True))
        for number in range(asked.folds):
            yield [index for index, name in names.items() if fold[name] == number]


def recommended(learned: Sequence[Row], kept: Sequence[Row]) -> dict[str, float]:
    """What the mixture of constant models that some rows recommend has over the best on others."""
    before, after = truth_of(learned), truth_of(kept)
    if before.costs is None or after.costs is None:
        return {}
    inside = np.isin(before.costs.mean(axis=0), constant_mixture(before.scores, before.costs).cost)
    within = np.isin(after.models, np.array(before.models)[inside])
    cost, quality = after.costs.mean(axis=0), after.scores.mean(axis=0)
    best = constant_mixture(after.scores, after.costs)
    margins = Curve(cost[within], quality[within]).over(best, cost.min(), cost.max())
    return {"least_margin": float(margins.min()), "mean_margin": float(margins.mean())}


def measure(rows: list[Row], encoder: Encoder | None, asked: argparse.Namespace) -> None:
    seen = see([row.prompt for row in rows], encoder)
    for by_task in (False, True):
        figures: dict[tuple[str, str, str], list[float | None]] = defaultdict(list)
        for kept in folds(rows, asked, by_task):
            others = sorted(set(range(len(rows))) - set(kept))
            model = train(
                [rows[i] for i in others], growth=Growth(trees=40), seen=seen.take(np.array(others))
            )
            for models, some in by_models(rows[index] for index in kept).items():
                count = f"{len(models)} models"
                learned = by_models(rows[index] for index in others)[models]
                for name, figure in recommended(learned, some).items():
                    figures[count, "constant", name].append(figure)
                for eye in (encoder, None) if encoder else (None,):
                    try:
                        report = evaluate(model, some, encoder=eye)
                    except ValueError:
                        continue
                    how = "encoder" if report.encoder else "plain"
                    named = {**report.figures, **{f"({n})": v for n, v in report.baselines.items()}}
                    for name, interval in named.items():
                        figures[count, how, name].append(interval.value)
        print(f"\n{'unseen tasks' if by_task else 'random rows'}, {asked.folds} folds")
        show(figures)


def show(figures: Mapping[tuple[str, str, str], list[float | None]]) -> None:
    """The mean of each figure over the folds, and in how many of them it was never reached."""
    for (count, how, name), values in sorted(figures.items()):
        found = [value for value in values if value is not None]
        mean = np.mean(found) if found else np.nan
        error = np.std(found) / np.sqrt(max(len(found) - 1, 1)) if found else np.nan
        never = f"  never in {len(values) - len(found)}" if len(found) < len(values) else ""
        print(f"  {count} {how:8} {name:28} {mean:8.4f} +- {error:.4f}{never}")


def by_models(rows: Iterable[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Rows that the same models answered."""
    families: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        families[tuple(sorted(row.outcomes))].append(row)
    return families


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--source", help="keep rows of this one from training; default: of all")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--no-encoder", action="store_true")
    parser.add_argument("--decisions", type=int, default=400)
    parser.add_argument("--hop", action="store_true", help="ask the router's replica on Ray too")
    asked = parser.parse_args()
    encoder = None if asked.no_encoder else load_encoder()
    time_decisions(None, asked.decisions)
    if encoder is not None:
        time_decisions(encoder, asked.decisions)
    if asked.hop:
        time_hop(asked.decisions)
    if asked.data:
        measure(read_rows(asked.data), encoder and Remembering(encoder), asked)


if __name__ == "__main__":
    main()
