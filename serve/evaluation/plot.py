"""Cost against quality, with the Pareto front. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from serve.evaluation.outcome import Figures


def check() -> None:
    """Raises ValueError where nothing could be drawn: before anything was paid for."""
    if find_spec("matplotlib") is None:
        raise ValueError("a plot needs matplotlib: install it, or leave --plot out")


def draw(path: Path, lines: Sequence[Figures], quality: str) -> None:
    """Every system whose cost is known, with the interval of its score."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    known = [line for line in lines if line.usd is not None]
    for line in known:
        score = line.score
        span = [[score.value - score.low], [score.high - score.value]]
        colour = "tab:blue" if line.on_front else "0.6"
        axes.errorbar([line.usd], [score.value], yerr=span, fmt="o", color=colour, capsize=3)
        axes.annotate(
            line.system, (line.usd, score.value), xytext=(6, 6), textcoords="offset points"
        )
    best = sorted((line.usd, line.score.value) for line in known if line.on_front)
    axes.plot([cost for cost, _ in best], [value for _, value in best], color="tab:blue", lw=1)
    axes.set_xlabel("US dollars a task")
    axes.set_ylabel(quality)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
