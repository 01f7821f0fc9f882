"""Draws simulated policies over time: replicas serving, and requests waiting below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.simulation.simulator import Result


def draw(results: Sequence[Result], path: Path) -> None:
    """Write a PNG with one line a policy. Needs matplotlib (ImportError without it)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for result in results:
        minutes = [moment.at_s / 60 for moment in result.timeline]
        (line,) = above.plot(
            minutes,
            [moment.replicas for moment in result.timeline],
            drawstyle="steps-post",
            label=f"{result.policy}: ${result.dollars:.2f}, {result.ttft_attainment:.2%} in time",
        )
        above.plot(
            minutes,
            [moment.wanted for moment in result.timeline],
            drawstyle="steps-post",
            color=line.get_color(),
            linestyle=":",
            linewidth=0.8,
        )
        below.plot(minutes, [moment.queued for moment in result.timeline], color=line.get_color())
    above.set_ylabel("replicas (dotted: wanted)")
    above.legend()
    below.set_ylabel("requests waiting")
    below.set_yscale("symlog")
    below.set_xlabel("minutes")
    figure.savefig(path, format="png", dpi=120)
