"""The cheapest schedule of one who knows the future: what no policy can beat by much.

The requests are summed into work per slot (replica-seconds, `ServiceRates.work_s`). For that
work as a fluid, dynamic programming finds the cheapest numbers of replicas exactly:

* state: replicas serving, and seconds of work left over from before (backlog);
* cost of a slot: replicas x slot; of each replica added, its start-up time, paid before it
  serves; of each removed, the time it drains; of each request that comes while the backlog is
  longer than the first-token target allows, a price of lateness;
* nothing ordered after the start serves before one start-up time has passed.

The minimum over the next number of replicas is taken with two running minima (costs of change
are linear), so a slot costs states, not states squared.

The price of lateness is the multiplier of the constraint "at most 1 - attainment late". The
simulator, not the fluid, is the judge: `find_oracle` searches over that price and a margin on
the work for the cheapest schedule that reaches the attainment when it is really replayed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from cluster.cost import bill_microdollars
from cluster.simulation.simulator import (
    GaveUp,
    Result,
    Setting,
    View,
    Wanted,
    initial_replicas,
    may_be_late,
    simulate,
)

#: Constant numbers of replicas that are tried for a fleet that mostly idles.
_MOST_CONSTANT = 4
#: Lengths of the wait that are tried, in first-token targets.
_WAITS = (1.5, 3.0, 4.5)
_SHORT_WAIT = 0.75
_BACKLOGS = 49  # points of the backlog axis
#: What the search of a schedule may look at (four bytes each, seconds in all), unless the mean load
#: needs more: one row that is a day's work must not ask for tens of thousands of replicas.
_CHOICES = 40_000_000


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A schedule as a contender: `level[i]` replicas serve in slot i of `slot_s` seconds."""

    level: tuple[int, ...]
    slot_s: float
    startup_s: float
    spot: bool = False
    name: str = "oracle"

    def decide(self, view: View) -> Wanted:
        """What serves now plus what has to be on its way now to serve in time."""
        wanted = self.wanted(view.now_s)
        return Wanted(0, wanted) if self.spot else Wanted(wanted)

    def wanted(self, now_s: float) -> int:
        """Replicas that serve or start at that time."""
        now = min(int(now_s / self.slot_s), len(self.level) - 1)
        until = min(int((now_s + self.startup_s) / self.slot_s), len(self.level) - 1)
        wanted = self.level[now]
        for slot in range(now, until):
            wanted += max(0, self.level[slot + 1] - self.level[slot])
        return wanted

    def least_paid_s(self) -> float:
        """Replica-seconds that are paid for at least: within a slot more may be ordered, and those
        who drain and the last slot come on top."""
        starts = (slot * self.slot_s for slot in range(len(self.level) - 1))
        return self.slot_s * sum(map(self.wanted, starts))


@dataclass(frozen=True, slots=True, eq=False)
class Fluid:
    """The trace as a fluid: replicas needed and requests, by slot of `slot_s` seconds."""

    need: NDArray[np.float64]
    requests: NDArray[np.float64]
    slot_s: float


def fluid_of(setting: Setting, slot_s: float) -> Fluid:
    """Sum the trace's work and requests by slot."""
    trace, rates = setting.trace, setting.profile.rates()
    slot = (np.frombuffer(trace.arrival_s) / slot_s).astype(np.int64)
    slots = int(slot[-1]) + 1
    work = np.array(trace.prompt_tokens) / rates.prefill_tokens_per_s
    work += np.array(trace.generated_tokens) * rates.seconds_per_generated_token()
    return Fluid(
        np.bincount(slot, work, slots) / slot_s,
        np.bincount(slot, minlength=slots).astype(np.float64),
        slot_s,
    )


def best_schedule(
    fluid: Fluid,
    *,
    start: int,
    startup_s: float,
    drain_s: float,
    wait_s: float,
    late_price_s: float,
    margin: float,
) -> tuple[int, ...]:
    """The cheapest levels for `margin` times the fluid's work, by dynamic programming.

    wait_s: backlog, in seconds of the fleet's work, from which requests are late.
    late_price_s: price of one late request in replica-seconds. start: replicas at the start.
    """
    need = fluid.need * margin
    first_free = math.ceil(startup_s / fluid.slot_s)
    # Who asks of those who serve at the start more than they can do gives them up: all would be
    # late whether they stay or not.
    start_need = np.maximum(fluid.need[:first_free], start)
    need[:first_free] = np.minimum(need[:first_free], start_need)
    bound = max(3 * math.ceil(float(need.mean())), _CHOICES // (_BACKLOGS * len(need)))
    # Nor does anybody need more replicas than there are requests.
    bound = min(bound, int(fluid.requests.sum()))
    top = max(start, min(bound, math.ceil(float(need.max()) * 1.1) + 1))
    levels = np.arange(top + 1, dtype=np.float64)[:, None]
    # Backlog in seconds at the present size; fine below the target, coarse above it.
    waits = np.concatenate(
        [np.linspace(0, 2 * wait_s, 33), 2 * wait_s * 1.25 ** np.arange(1, _BACKLOGS - 32)]
    )
    slots, slot_s = len(need), fluid.slot_s
    value = np.zeros((top + 1, len(waits)))
    choice = np.empty((slots, top + 1, len(waits)), dtype=np.int32)
    work_waiting = np.maximum(levels, 1.0) * waits[None, :]
    for slot in range(slots - 1, -1, -1):
        after = np.maximum(0.0, work_waiting + (need[slot] - levels) * slot_s)
        wait_after = after / np.maximum(levels, 0.5)
        middle = (waits[None, :] + wait_after) / 2
        late = np.clip((middle - wait_s) / max(wait_s, 1e-9) * 4 + 0.5, 0.0, 1.0)
        total = levels * slot_s + late_price_s * fluid.requests[slot] * late
        total = total + _interpolate(value, waits, wait_after)
        up = startup_s if slot >= first_free else 1e12
        value, choice[slot] = _cheapest_next(total, up, drain_s, work_waiting, waits)
    return _follow(choice, need, waits, start, slot_s)


def _interpolate(
    value: NDArray[np.float64], waits: NDArray[np.float64], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """value[row] at waits `at`, row by row; beyond the axis, the last value (all are late)."""
    right = np.clip(np.searchsorted(waits, at), 1, len(waits) - 1)
    share = np.clip((at - waits[right - 1]) / (waits[right] - waits[right - 1]), 0.0, 1.0)
    left_value = np.take_along_axis(value, right - 1, axis=1)
    right_value = np.take_along_axis(value, right, axis=1)
    return left_value + share * (right_value - left_value)


def _cheapest_next(
    total: NDArray[np.float64],
    up: float,
    down: float,
    work_waiting: NDArray[np.float64],
    waits: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """For each present level the best level of the slot: min over m of total[m] + change.

    The backlog in seconds is kept over a change of level: one level more or less is a small
    share of a fleet, and the error vanishes where there is no backlog.
    """
    levels = total.shape[0]
    index = np.broadcast_to(np.arange(levels, dtype=np.int32)[:, None], total.shape)
    steps = np.arange(levels, dtype=np.float64)[:, None]
    # Going up: min over m >= n of total[m] + up * m, less up * n. Going down likewise.
    rising, rising_at = _running_minimum((total + up * steps)[::-1], index[::-1])
    falling, falling_at = _running_minimum(total - down * steps, index)
    rising, rising_at = rising[::-1] - up * steps, rising_at[::-1]
    falling = falling + down * steps
    better = falling < rising
    return np.where(better, falling, rising), np.where(better, falling_at, rising_at)


def _running_minimum(
    cost: NDArray[np.float64], index: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    lowest = np.minimum.accumulate(cost, axis=0)
    is_new = np.ones(cost.shape, dtype=bool)
    is_new[1:] = cost[1:] < lowest[:-1]
    rows = np.where(is_new, np.arange(cost.shape[0])[:, None], 0)
    at = np.maximum.accumulate(rows, axis=0)
    return lowest, np.take_along_axis(index, at, axis=0)


def _follow(
    choice: NDArray[np.int32],
    need: NDArray[np.float64],
    waits: NDArray[np.float64],
    start: int,
    slot_s: float,
) -> tuple[int, ...]:
    level, backlog, chosen = start, 0.0, []
    for slot in range(len(need)):
        wait = backlog / max(level, 1)
        nearest = int(np.abs(waits - wait).argmin())
        level = int(choice[slot, level, nearest])
        backlog = max(0.0, backlog + (float(need[slot]) - level) * slot_s)
        chosen.append(level)
    # What is still being answered at the end needs somebody to answer it.
    chosen[-1] = max(1, chosen[-1])
    return tuple(chosen)


def _price_of_lateness(setting: Setting) -> float:
    """In replica-seconds: what a spilled call costs, or several times a request's own work, so
    that giving a request up is never cheaper than serving it."""
    trace, profile = setting.trace, setting.profile
    count = len(trace)
    prompt, generated = sum(trace.prompt_tokens) / count, sum(trace.generated_tokens) / count
    remote = profile.remote_price() if setting.spill else None
    if remote is None:
        return 3.0 * profile.rates().work_s(prompt, generated)
    micro = float(remote.usd_per_million_input) * prompt
    micro += float(remote.usd_per_million_output) * generated
    return micro / (bill_microdollars(_usd_per_hour(setting), 3600.0) / 3600.0)


def _usd_per_hour(setting: Setting) -> Decimal:
    node = setting.profile.node
    return node.spot.usd_per_hour if setting.spot and node.spot else node.usd_per_hour


def find_oracle(setting: Setting, progress: Callable[[float], None] | None = None) -> Result:
    """The cheapest replayed schedule that reaches the attainment; the best attained where none.

    Tries three lengths of the wait that the running batches absorb, and for each bisects the
    margin on the work; where none reaches it, a shorter one as well, and dearer lateness. With
    spill every request can be in time, so there the margins are simply compared. With spot, all of
    it is placed on spot.
    """
    search = _Search(setting, progress)
    if setting.spill:
        for margin in (0.7, 0.8, 0.9, 0.95, 1.0, 1.05):
            search.tried(3.0, margin)
    else:
        search.bisected(_WAITS)
        # A replica may cost more than all who would be late at that price: where bursts are short
        # and high, or a fleet mostly idles. And prompts wait for each other in whatever batch.
        for _ in range(2):
            if not search.reached:
                search.price *= 10
                search.bisected((_SHORT_WAIT, *_WAITS))
        # The cheapest schedule of a fleet that mostly idles may be the same number all the time.
        if not search.reached:
            search.constants()
    assert search.best is not None
    return search.best


class _Search:
    """Replays candidates and keeps the best result."""

    def __init__(self, setting: Setting, progress: Callable[[float], None] | None) -> None:
        self.setting = setting
        self.progress = progress
        self.best: Result | None = None
        self.reached = False
        self.runs = 0
        self.attainment = setting.profile.targets.attainment
        self.may_be_late = may_be_late(self.attainment, len(setting.trace))
        self.fluid = fluid_of(setting, max(5.0, setting.trace.duration_s / 2000))
        self.most_late: float = math.inf  # a run with more cannot be the best any more
        self.start = initial_replicas(setting.trace, setting.profile)
        self.price = _price_of_lateness(setting)

    def bisected(self, lengths: tuple[float, ...]) -> None:
        """Look for the least margin that reaches the attainment, at these lengths of the wait."""
        for waits in lengths:
            low, high = 0.9, 1.4
            while not (reaches := self.tried(waits, high)) and high < 4.0:
                low, high = high, high * 1.5
            if not reaches:
                # It is not for want of replicas, and a longer wait makes nobody earlier.
                return
            while high - low > 0.012:
                middle = (low + high) / 2
                low, high = (low, middle) if self.tried(waits, middle) else (middle, high)

    def constants(self) -> None:
        """The same number of replicas all the time, up to one that reaches the attainment."""
        for count in range(1, _MOST_CONSTANT + 1):
            if self.replayed((count,) * len(self.fluid.need)):
                return

    def tried(self, waits: float, margin: float) -> bool:
        """Whether the schedule for that wait (first-token targets) and margin reaches it."""
        profile = self.setting.profile
        levels = best_schedule(
            self.fluid,
            start=self.start,
            startup_s=profile.node.startup_s,
            drain_s=profile.rates().work_s(0, profile.replica.decode.max_batch * 200.0),
            wait_s=waits * profile.targets.ttft_s,
            late_price_s=self.price,
            margin=margin,
        )
        return self.replayed(levels)

    def replayed(self, levels: tuple[int, ...]) -> bool:
        """Whether this schedule reaches the attainment when it is really replayed.

        One that is dearer than the best is not replayed and taken to reach it: if it does not,
        those that would are dearer still.
        """
        startup_s = self.setting.profile.node.startup_s
        schedule = Scheduled(levels, self.fluid.slot_s, startup_s, spot=self.setting.spot)
        if self._is_dearer(schedule):
            return True
        self.runs += 1
        if self.progress is not None:
            self.progress(min(0.99, self.runs / 22))
        try:
            result = simulate(
                self.setting,
                schedule,
                give_up=lambda _, late: late > self.most_late,
            )
        except GaveUp:
            return False
        reached = result.ttft_attainment >= self.attainment
        if self.best is None or _better(result, reached, self.best, self.reached):
            self.best, self.reached = result, reached
            late = round((1 - result.ttft_attainment) * len(self.setting.trace))
            self.most_late = max(late, self.may_be_late)
        return reached

    def _is_dearer(self, schedule: Scheduled) -> bool:
        """Whether it is known without a replay to cost more than the best that reached it."""
        if self.best is None or not self.reached:
            return False
        least = bill_microdollars(_usd_per_hour(self.setting), schedule.least_paid_s())
        return least > self.best.microdollars


def _better(new: Result, reached: bool, old: Result, old_reached: bool) -> bool:
    if reached != old_reached:
        return reached
    if reached:
        return new.microdollars < old.microdollars
    return new.ttft_attainment > old.ttft_attainment
