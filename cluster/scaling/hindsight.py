"""How far above the forecast to stand: what would have been enough until now.

Pure and incremental. For every margin of a list, a fleet is kept on paper that has always stood
that many standard errors above the forecasts as they were made; bin by bin it meets the load
that really came. Its backlog and the share of work it would have answered late are kept. The
margin in use is the smallest whose share is within what may be late.

At the start nothing is known, so each paper fleet begins with the share of late work that a
normal distribution of the errors gives it (less what running batches absorb), worth
`_PRIOR_HORIZONS` start-up times of load. What happens outweighs it: a load that is calmer than
its errors look is served with less, one with heavy tails gets more after the first of them.
Late work fades over `_MEMORY_HORIZONS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from cluster.scaling.forecast import BINS_PER_HORIZON, Forecast

MARGINS = (0, 0.25, 0.5, 0.625, 0.75, 0.875, 1, 1.125, 1.25, 1.5, 1.75, 2, 2.5, 3, 4)
_PRIOR_HORIZONS = 0.5
_MEMORY_HORIZONS = 60.0
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Hindsight:
    """The paper fleets. `total` is the work met, in bins times replicas, `late` the part of it
    that each would have answered late, `backlogs` seconds of work waiting at each."""

    # For each margin: replicas needed at the last bins, and wanted (the hold included).
    needed: tuple[tuple[float, ...], ...] = ((),) * len(MARGINS)
    wanted: tuple[tuple[float, ...], ...] = ((),) * len(MARGINS)
    backlogs: tuple[float, ...] = (0.0,) * len(MARGINS)
    late: tuple[float, ...] = (0.0,) * len(MARGINS)
    total: float = 0.0


def meet(
    past: Hindsight,
    load: float,
    bin_s: float,
    ahead: Forecast,
    hold_bins: int,
    absorb_s: float,
) -> Hindsight:
    """One bin later: `load` replicas of work came in it, and `ahead` is what is now expected.

    Wanted is the most needed within the last `hold_bins`. What serves is the least wanted within
    the last horizon: a replica given up comes back one horizon after it is ordered. A fleet
    absorbs a backlog of `absorb_s` seconds before anybody is late.
    """
    fade = 1.0 - 1.0 / (_MEMORY_HORIZONS * BINS_PER_HORIZON)
    needed, wanted, backlogs, late = [], [], [], []
    began = len(past.wanted[0]) >= BINS_PER_HORIZON
    for i, margin in enumerate(MARGINS):
        need = (*past.needed[i], ahead.expected + margin * ahead.error)[-max(1, hold_bins) :]
        want = (*past.wanted[i], max(need))[-BINS_PER_HORIZON - 1 :]
        needed.append(need)
        wanted.append(want)
        fleet = max(1.0, min(want))
        backlog = max(0.0, past.backlogs[i] + (load - fleet) * bin_s) if began else 0.0
        is_late = backlog > absorb_s * fleet
        backlogs.append(backlog)
        late.append(fade * past.late[i] + (load if is_late else 0.0))
    total = fade * past.total + load if began else 0.0
    return Hindsight(tuple(needed), tuple(wanted), tuple(backlogs), tuple(late), total)


def margin_for(
    past: Hindsight, present: float, may_be_late: float, absorbed_errors: float = 0.0
) -> float:
    """The smallest margin whose paper fleet keeps within the share that may be late.

    present: load in replicas, the weight of the prior. absorbed_errors: the excess load that
    the batches absorb, in standard errors of the forecast; it is a margin that costs nothing.
    """
    prior = _PRIOR_HORIZONS * BINS_PER_HORIZON * max(present, 1e-9)
    for margin, late in zip(MARGINS, past.late, strict=True):
        share = 1 - _NORMAL.cdf(margin + absorbed_errors)
        if late + prior * share <= may_be_late * (past.total + prior):
            return margin
    return MARGINS[-1]
