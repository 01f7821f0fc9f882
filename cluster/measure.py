"""Measures a running model and writes what it found as a profile.

Prompts of several lengths, one at a time, give the prefill rate; several streams at once give
the time of a decode step by how many run. Each point is the median of several answers, so that one
slow answer does not decide, and the line through them is of least squares. Whoever calls says how a
request is sent (`Run`).
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import ProfileError

PROMPTS = (100, 400, 800, 1600, 3200)  # words
ANSWER_TOKENS = 64
_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Timing:
    """One streamed answer: its tokens, seconds to the first, and between two later ones."""

    prompt_tokens: int
    generated_tokens: int
    first_s: float
    step_s: float


#: Sends a prompt of about so many words and asks for about so many tokens.
Run = Callable[[int, int], Awaitable[Timing]]
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one replica does."""

    prefill_tokens_per_s: float
    step_base_s: float
    step_per_sequence_s: float
    max_batch: int


async def measure(run: Run, max_batch: int, longest_words: int, report: Report) -> Measured:
    """Measure by `run`, with at most `max_batch` at once and `longest_words` in a prompt.

    Raises ProfileError where the answers are too short or too alike to tell anything.
    """
    await run(PROMPTS[0], 8)  # the first answer of an engine is slow and says nothing
    prompts: list[tuple[float, float]] = []
    for words in (n for n in PROMPTS if n <= longest_words):
        timings = [await run(words, 2) for _ in range(_REPEATS)]
        told = [timing for timing in timings if timing.first_s > 0]
        if not told:
            raise ProfileError("the model answers with nothing: there is no first token to time")
        prompts.append(
            (
                statistics.median(timing.prompt_tokens for timing in told),
                statistics.median(timing.first_s for timing in told),
            )
        )
        report(f"prompt of {prompts[-1][0]:.0f} tokens: {prompts[-1][1]:.3f} s to the first token")
    steps: list[tuple[float, float]] = []
    for batch in batches(max_batch):
        answers = await asyncio.gather(*(run(30, ANSWER_TOKENS) for _ in range(batch)))
        paces = [one.step_s for one in answers if one.generated_tokens > 1 and one.first_s > 0]
        if not paces:
            raise ProfileError("the model answers with one token: there is no decode step to time")
        steps.append((batch, statistics.median(paces)))
        report(f"{batch} at once: {steps[-1][1] * 1000:.1f} ms a step")
    return fit(prompts, steps, max_batch)


def batches(most: int) -> Iterator[int]:
    """1, 2, 4 and so on up to `most`, which is always tried."""
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most


def fit(
    prompts: Sequence[tuple[float, float]], steps: Sequence[tuple[float, float]], max_batch: int
) -> Measured:
    """The rates from (prompt tokens, seconds to the first) and (batch, seconds of a step).

    Raises ProfileError where longer prompts do not take longer.
    """
    slope, _ = line(prompts)
    if not slope > 0:
        raise ProfileError(
            "longer prompts were not answered later, so the prefill rate cannot be told: "
            "measure while nobody else asks, or a model with a longer context"
        )
    per_sequence, base = line(steps)
    # Where a step takes as long for many as for one, some small cost stands for none.
    per_sequence = max(per_sequence, 1e-6)
    return Measured(1 / slope, max(base, 0.0), per_sequence, max_batch)


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope and intercept of the least-squares line; slope 0 where all x are equal."""
    if not points:
        return 0.0, 0.0
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if max(xs) == min(xs):
        return 0.0, statistics.fmean(ys)
    slope, intercept = statistics.linear_regression(xs, ys)
    return slope, intercept


def profile(
    found: Measured, usd_per_hour: float, startup_s: float, ttft_s: float, tpot_s: float
) -> dict[str, Any]:
    """The content of a profile file (`cluster.profile`), rates to four digits."""
    return {
        "node": {"usd_per_hour": usd_per_hour, "startup_s": startup_s},
        "replica": {
            "prefill_tokens_per_s": _digits(found.prefill_tokens_per_s),
            "decode": {
                "step_base_s": _digits(found.step_base_s),
                "step_per_sequence_s": _digits(found.step_per_sequence_s),
                "max_batch": found.max_batch,
            },
        },
        "targets": {"ttft_s": ttft_s, "tpot_s": tpot_s, "attainment": 0.99},
    }


def _digits(value: float) -> float:
    return round(value, 3 - math.floor(math.log10(value))) if value > 0 else 0.0
