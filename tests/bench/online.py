"""Learning on line beside training anew, after the traffic has shifted: figures and a plot.

    python tests/bench/online.py DATA... --live SOURCE [--weak NAME --strong NAME] [--plot FILE]

The weights are learned from all DATA but the rows of SOURCE. Then rows of SOURCE come as live
traffic, answered by the models WEAK and STRONG under the names that the weights know as their
own weakest and strongest: prompts are new, and so are the models behind the names. After 0, 50,
... 500 of them the gain is judged on rows of SOURCE that never came by. Training anew sees the
same rows beside all others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# This folder goes first of all: in it a file would be `router`.
sys.path[:1] = [str(Path(__file__).parents[2])]

import numpy as np

from router.candidate import Candidate
from router.data import Outcome, Row, read_rows
from router.encoder import Encoder, load_encoder
from router.evaluate import apgr
from router.forest import Growth
from router.gain import GainModel
from router.learner import Learner, Lesson
from router.train import train

STEPS = (0, 25, 50, 100, 200, 300, 400, 500)
CANDIDATES = (Candidate("weak"), Candidate("strong"))


def renamed(rows: Sequence[Row], weak: str, strong: str) -> list[Row]:
    """Rows of two models under the names `weak` and `strong`."""
    made = []
    for row in rows:
        if weak in row.outcomes and strong in row.outcomes:
            scores = {"weak": row.outcomes[weak].score, "strong": row.outcomes[strong].score}
            outcomes = {name: Outcome(score) for name, score in scores.items()}
            made.append(Row(row.prompt, outcomes, row.task, row.source, row.id))
    return made


def figures(quality: np.ndarray, rows: Sequence[Row]) -> tuple[float, float]:  # type: ignore[type-arg]
    """APGR, and the mean squared error of the expected scores."""
    true = np.array([[row.outcomes[c.name].score for c in CANDIDATES] for row in rows])
    gain = quality[:, 1] - quality[:, 0]
    return apgr(gain, true[:, 0], true[:, 1]), float(((quality - true) ** 2).mean())


def online(
    model: GainModel, live: Sequence[Row], kept: Sequence[Row], encoder: Encoder | None
) -> list[tuple[float, float]]:
    """Figures on the kept rows after each of the steps."""
    eye = model.eye(encoder)
    learner = Learner(eye.id, len(eye.sight.mean))
    seen = model.predict([row.prompt for row in live], CANDIDATES, encoder)
    asked = model.predict([row.prompt for row in kept], CANDIDATES, encoder)
    told, taught = [], 0
    for step in STEPS:
        for index in range(taught, step):
            for column, one in enumerate(CANDIDATES):
                expected = float(seen.quality[index, column])
                score = live[index].outcomes[one.name].score
                learner.learn(Lesson(one.name, seen.context[index], eye.id, expected, score))
        taught = step
        names = [one.name for one in CANDIDATES]
        quality, _ = learner.corrected(names, asked.context, asked.quality, asked.spread)
        told.append(figures(quality, kept))
    return told


def main() -> None:
    """Print the figures; draw them if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--live", required=True, help="source of the live traffic")
    parser.add_argument("--weak", default="mistral-7b-instruct-v0.3")
    parser.add_argument("--strong", default="llama-3.1-nemotron-51b-instruct")
    parser.add_argument("--before", nargs=2, default=["mixtral-8x7b", "gpt-4-1106"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-encoder", action="store_true")
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    encoder = None if asked.no_encoder else load_encoder()
    rows = read_rows(asked.data)
    old = renamed([row for row in rows if row.source != asked.live], *asked.before)
    new = renamed([row for row in rows if row.source == asked.live], asked.weak, asked.strong)
    growth = Growth(trees=40)
    model = train(old, encoder, growth)
    curves, anew = [], []
    for turn in range(asked.repeat):
        order = np.random.default_rng(turn).permutation(len(new))
        live = [new[i] for i in order[: STEPS[-1]]]
        kept = [new[i] for i in order[STEPS[-1] : STEPS[-1] + 1_500]]
        curves.append(online(model, live, kept, encoder))
        again = train([*old, *live], encoder, growth)
        quality = again.predict([row.prompt for row in kept], CANDIDATES, encoder).quality
        anew.append(figures(quality, kept))
        alone = train(live, encoder, growth)
        quality = alone.predict([row.prompt for row in kept], CANDIDATES, encoder).quality
        anew[-1] = (*anew[-1], *figures(quality, kept))
    curve, target = np.mean(curves, axis=0), np.mean(anew, axis=0)
    print(f"{len(old)} rows before, {len(new)} of {asked.live}; mean of {asked.repeat} orders")
    print("observed   APGR   squared error")
    for step, (area, error) in zip(STEPS, curve, strict=True):
        print(f"{step:8}  {area:.4f}   {error:.4f}")
    print(f"retrained on old and new rows   {target[0]:.4f}   {target[1]:.4f}")
    print(f"retrained on the new rows alone {target[2]:.4f}   {target[3]:.4f}")
    best = (max(target[0], target[2]), min(target[1], target[3]))
    for name, column in (("APGR", 0), ("squared error", 1)):
        part = (curve[-1, column] - curve[0, column]) / (best[column] - curve[0, column])
        print(f"of what the better retraining gives, in {name}: {part:.0%}")
    if asked.plot:
        draw(curve, best, asked.plot)


def draw(curve: np.ndarray, target: tuple[float, float], file: Path) -> None:  # type: ignore[type-arg]
    """Both figures against the number of observations."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    for column, name in enumerate(("APGR (random 0.5)", "mean squared error of the score")):
        axes[column].plot(STEPS, curve[:, column], marker="o", label="learned on line")
        axes[column].axhline(target[column], color="gray", linestyle="--", label="trained anew")
        axes[column].set_xlabel("observations after the shift")
        axes[column].set_title(name)
        axes[column].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
