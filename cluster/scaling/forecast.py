"""How much work will arrive one start-up time from now, and how wrong that may be.

Pure and incremental: `observe` takes a state and what arrived, and returns the next state. Work
is measured in replicas: replica-seconds of work that arrive per second.

Several simple predictors run side by side: running means over a quarter of a start-up time to
four of them, and the same following half of their own trend (Holt's linear method, 1957, damped:
Gardner & McKenzie, 1985). Each is scored by the square of its own past errors at the horizon that
matters, fading over ten horizons, and the best is used; a trend has to be twice as good over two
horizons, because one that is not there looks like one for a while. What they are scored on is
the mean load over `absorb_s`, the time in which running batches absorb a burst without a queue. So
no smoothing constant is fitted to a load; the load chooses.

The error that is reported is the spread of its own errors, and before those are many a
guess: a load is known to `_GUESSED_ERROR` of itself, worth `_GUESS_HORIZONS` of experience.
Ten calm minutes are no proof of an eleventh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

BINS_PER_HORIZON = 24
_TIME_CONSTANTS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the horizon
_TREND_SHARE = 0.5  # how much of its trend is carried on
_TREND_MUST_WIN = 0.5  # of the squares of the best mean
_TREND_MUST_WIN_BINS = 2 * BINS_PER_HORIZON
_GUESSED_ERROR = 0.13  # of the load
_GUESS_HORIZONS = 5.0
_REFUTED_BY = 3.0  # standard errors
_MEMORY = 10.0  # horizons over which errors fade


@dataclass(frozen=True, slots=True)
class Forecast:
    """Expected replicas of work at the horizon, the standard error of that, and the present
    load; and that again as the alarm where it refutes what is expected, else 0. In replicas."""

    expected: float
    error: float
    present: float
    alarm: float = 0.0


@dataclass(frozen=True, slots=True)
class ForecastState:
    """Everything a forecaster remembers. `start` makes the first one."""

    horizon_s: float
    bin_end_s: float
    smooth_bins: int = 1
    first_bin_s: float = 0.0
    open_work: float = 0.0  # replica-seconds in the bin that is not closed yet
    bins: int = 0
    recent: tuple[float, ...] = ()
    means: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()  # the means that follow a trend
    trends: tuple[float, ...] = ()
    # Predictions that have not come due, oldest first, each one value a predictor.
    pending: tuple[tuple[float, ...], ...] = ()
    squares: tuple[float, ...] = ()
    weight: float = 0.0  # predictions in `squares`

    @property
    def last_load(self) -> float:
        """Load of the bin closed last, in replicas."""
        return self.recent[-1] if self.recent else 0.0

    @property
    def bin_s(self) -> float:
        """Seconds of one bin."""
        return max(self.horizon_s, 1.0) / BINS_PER_HORIZON


def start(now_s: float, horizon_s: float, phase: float = 0.0) -> ForecastState:
    """A forecaster that has seen nothing. `horizon_s`: how far ahead to look, the start-up time.

    phase: 0 to below 1, the part by which the first bin is longer, so that many models need not
    close their bins, which is the costly part, in the same moment.
    """
    state = ForecastState(horizon_s, now_s)
    first_s = state.bin_s * (1 + phase)
    return replace(state, bin_end_s=now_s + first_s, first_bin_s=first_s)


def observe(
    state: ForecastState, now_s: float, work_s: float, absorb_s: float = 0.0
) -> ForecastState:
    """`work_s` replica-seconds of work have arrived since the last call; it is `now_s` now.
    Bursts shorter than `absorb_s` do no harm (at most the horizon is used).

    After a long silence the bins in between are closed as empty, at most 200 of them: by then
    every predictor has forgotten what was before.
    """
    if now_s < state.bin_end_s:
        return replace(state, open_work=state.open_work + work_s)
    bins = min(BINS_PER_HORIZON, max(1, round(absorb_s / state.bin_s)))
    if bins != state.smooth_bins:
        state = replace(state, smooth_bins=bins)
    behind = int((now_s - state.bin_end_s) / state.bin_s) + 1
    closed = min(behind, 200)
    for number in range(closed):
        # What came since the last call is spread evenly over the bins it spans.
        state = _close(state, (state.open_work if number == 0 else 0.0) + work_s / closed)
    return replace(state, open_work=0.0, bin_end_s=state.bin_end_s + behind * state.bin_s)


def _close(state: ForecastState, work_s: float) -> ForecastState:
    load = work_s / (state.bin_s if state.bins or not state.first_bin_s else state.first_bin_s)
    recent = (*state.recent, load)[-state.smooth_bins :]
    realised = sum(recent) / len(recent)
    state = replace(_follow(state, load), bins=state.bins + 1, recent=recent)
    squares, weight = state.squares, state.weight
    pending = state.pending
    due = pending[0] if len(pending) >= BINS_PER_HORIZON else None
    if due is not None:
        pending = pending[1:]
    if due:
        fade = 1.0 - 1.0 / (_MEMORY * BINS_PER_HORIZON)
        errors = [realised - predicted for predicted in due]
        squares = tuple(fade * s + e * e for s, e in zip(squares, errors, strict=True))
        weight = fade * weight + 1.0
    # What was predicted from less than half a horizon is no measure of what comes later.
    predicted = _predictions(state) if state.bins > BINS_PER_HORIZON // 2 else ()
    return replace(state, pending=(*pending, predicted), squares=squares, weight=weight)


def _follow(state: ForecastState, load: float) -> ForecastState:
    count = len(_TIME_CONSTANTS)
    if not state.means:
        first, still = (load,) * count, (0.0,) * count
        return replace(state, means=first, levels=first, trends=still, squares=(0.0,) * (2 * count))
    means, levels, trends = [], [], []
    for constant, mean, level, trend in zip(
        _TIME_CONSTANTS, state.means, state.levels, state.trends, strict=True
    ):
        # At the start a running mean is the plain mean of what was seen.
        gain = max(1.0 / (state.bins + 1), 1.0 - math.exp(-1.0 / (constant * BINS_PER_HORIZON)))
        means.append(mean + gain * (load - mean))
        missed = load - level - trend
        # A trend that overshoots must not carry the level of a load below nothing.
        levels.append(max(0.0, level + trend + gain * missed))
        # From less than half a horizon no trend is read.
        read = gain * gain / (2.0 - gain) if state.bins >= BINS_PER_HORIZON // 2 else 0.0
        trends.append(trend + read * missed)
    return replace(state, means=tuple(means), levels=tuple(levels), trends=tuple(trends))


def _predictions(state: ForecastState) -> tuple[float, ...]:
    carried = _TREND_SHARE * BINS_PER_HORIZON
    return (
        *state.means,
        *(
            max(0.0, level + carried * trend)
            for level, trend in zip(state.levels, state.trends, strict=True)
        ),
    )


def forecast(state: ForecastState) -> Forecast:
    """What to expect one horizon ahead.

    Before any prediction has come due, the mean over one horizon, or the present load if that
    is more.
    """
    if not state.means:
        return Forecast(0.0, 0.0, 0.0)
    present = sum(state.recent) / len(state.recent)
    predictions = _predictions(state)
    if state.weight < 1.0:
        expected = max(predictions[2], present)
        return Forecast(expected, _GUESSED_ERROR * expected, present)
    squares, count = state.squares, len(_TIME_CONSTANTS)
    best = min(range(count), key=squares.__getitem__)
    trended = min(range(count, 2 * count), key=squares.__getitem__)
    proven = state.weight >= _TREND_MUST_WIN_BINS
    if proven and squares[trended] < _TREND_MUST_WIN * squares[best]:
        best = trended
    guess = (_GUESSED_ERROR * predictions[best]) ** 2
    guesses = _GUESS_HORIZONS * BINS_PER_HORIZON
    error = math.sqrt((guesses * guess + squares[best]) / (guesses + state.weight))
    expected = predictions[best]
    # Far outside of its error a forecast is refuted, and what arrives is all that is known.
    alarm = present if present > expected + _REFUTED_BY * error else 0.0
    return Forecast(expected, error, present, alarm)
