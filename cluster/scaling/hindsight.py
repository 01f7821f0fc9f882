"""How far above the forecast to stand: what would have been enough until now.

Pure and incremental. For every margin of a list, a fleet is kept on paper that has always stood
that many standard errors above the forecasts as they were made; bin by bin it meets the load
that really came. Its backlog and the share of work it would have answered late are kept. The
margin in use is the smallest whose share is within what may be late; where none is, the smallest
that would have done about as well as the best, because no size of fleet buys back what came
without any warning.

At the start nothing is known, so each paper fleet begins with the share of late work that a
normal distribution of the errors gives it, worth a tenth of a start-up time of load. What happens
soon outweighs it: a load that is calmer than its errors look is served with less, one with heavy
tails gets more after the first of them, and that is remembered for `_MEMORY_HORIZONS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

from cluster.scaling.forecast import BINS_PER_HORIZON, Forecast

MARGINS = (0, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 5)
_MEMORY_HORIZONS = 60.0
_FADE = 1.0 - 1.0 / (_MEMORY_HORIZONS * BINS_PER_HORIZON)
_OPINION_HORIZONS = 0.1
_OPINIONS = tuple(1 - NormalDist().cdf(margin) for margin in MARGINS)
_AS_GOOD_AS = 1.15
# About the target the first are late before a fleet's backlog is as long as it allows, and the last
# of those who come only when it is longer: by this part of it.
_EDGE = 0.125
# Of those who then get their turn in time so many are late after all (2 to 6% in the simulator): in
# a replica prompts wait for each other.
_LATE_AT_THE_EDGE = 0.05


@dataclass(frozen=True, slots=True)
class Hindsight:
    """The paper fleets, one entry a margin. `total` is the work met, in bins times replicas,
    `late` the part of it that each would have answered late, `backlogs` seconds of work waiting,
    `wanted` the sizes wanted at the last bins."""

    wanted: tuple[tuple[float, ...], ...] = ()
    backlogs: tuple[float, ...] = (0.0,) * len(MARGINS)
    late: tuple[float, ...] = (0.0,) * len(MARGINS)
    total: float = 0.0
    skipped: int = 0  # bins of the first horizon, whose forecasts say nothing


def meet(
    past: Hindsight,
    load: float,
    bin_s: float,
    ahead: Forecast,
    keep: float,
    absorb_s: float,
) -> Hindsight:
    """One bin later: `load` replicas of work came in it, and `ahead` is what is now expected.

    A paper fleet wants its margin, and gives up at most the share 1 - keep of itself in a bin.
    None begins with the real one's size, which may come from a time that taught nothing. What
    serves is the least wanted within the last horizon: a replica given up comes back one horizon
    after it is ordered. Where `absorb_s` seconds of work wait at each replica, what comes beyond
    what is served is late, and delays nobody else, since whoever can be in time has its turn before
    it. While the first wants have not come up yet, nothing is late on paper: what really was late
    then is in the decision's own share.
    """
    if past.skipped < BINS_PER_HORIZON:
        return replace(past, skipped=past.skipped + 1)
    before = past.wanted or tuple((ahead.expected + m * ahead.error,) for m in MARGINS)
    began = len(before[0]) > BINS_PER_HORIZON
    wanted, backlogs, late = [], [], []
    for i, margin in enumerate(MARGINS):
        history = before[i]
        serving = max(1.0, min(history))
        want = max(ahead.expected + margin * ahead.error, history[-1] * keep)
        wanted.append((*history, want)[-BINS_PER_HORIZON - 1 :])
        backlog = max(0.0, past.backlogs[i] + (load - serving) * bin_s) if began else 0.0
        over = 0.0
        if backlog:
            most = serving * absorb_s
            full = min(1.0, max(0.0, (backlog / most - 1 + _EDGE) / (2 * _EDGE)))
            over = full * max(0.0, load - (1 - _LATE_AT_THE_EDGE) * serving)
            backlog = min(backlog, (1 + _EDGE) * most)
        backlogs.append(backlog)
        late.append(_FADE * past.late[i] + over)
    total = _FADE * past.total + load
    return Hindsight(tuple(wanted), tuple(backlogs), tuple(late), total, past.skipped)


def margin_for(past: Hindsight, present: float, may_be_late: float) -> float:
    """The smallest margin whose paper fleet keeps within the share that may be late.

    present: load in replicas, the weight of a horizon of opinion.
    """
    opinion = _OPINION_HORIZONS * BINS_PER_HORIZON * max(present, 1e-9)
    total = past.total + opinion
    shares = [
        (late + opinion * share) / total for late, share in zip(past.late, _OPINIONS, strict=True)
    ]
    limit = max(may_be_late, _AS_GOOD_AS * min(shares))
    return next(m for m, share in zip(MARGINS, shares, strict=True) if share <= limit)
