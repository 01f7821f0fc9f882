"""Replays a trace against a scaling policy on a fake clock, and bills it.

The clock is the trace's own. Once a second of it (more seldom in gaps of hours) the policy sees
the fleet and says how many replicas it wants; the simulator orders, cancels and drains replicas
accordingly:

* an ordered replica serves after the node's start-up time and is paid for from the order on;
* to shrink, replicas still starting are cancelled first (the latest order first), then those
  with the fewest requests drain: they take nothing new, answer what they hold, are paid until
  empty;
* the bill runs from the first arrival to the last answer, by the second;
* a trace is a window of a longer day: all policies begin with the same serving replicas, as
  many as the first minutes need (`initial_replicas`), because nothing ordered after the first
  arrival could serve before a start-up time has passed.

Attainment counts every request of the trace: one that was shed, or never answered, is late.
With spot, nodes live an exponentially distributed time (seeded) and give notice before they go.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from cluster.cost import MICRO, Market, bill_microdollars
from cluster.profile import Profile
from cluster.scaling.overflow import OverflowLimits, overflow
from cluster.simulation.engine import NEVER, Engine
from cluster.simulation.trace import Trace
from cluster.simulation.values import (
    Contender,
    Moment,
    Result,
    Setting,
    View,
    Wanted,
    make_setting,
)
from models.workforce.turns import longest_wait_s

__all__ = [
    "Contender",
    "GaveUp",
    "Moment",
    "Result",
    "Setting",
    "View",
    "Wanted",
    "initial_replicas",
    "make_setting",
    "percentile",
    "simulate",
]

TICK_S = 1.0
# Where nothing has come or changed for so long, the policy is asked again after a sixtieth of that,
# in whole minutes, until something does: most of a long trace may be gaps.
_STILL_S = 3600.0
_STILL_SHARE = 1 / 60
_MINUTE_S = 60.0


class GaveUp(Exception):
    """The run passed a limit of its caller and was stopped."""


@dataclass(slots=True)
class _Node:
    number: int
    market: Market
    ordered_s: float
    ready_s: float
    gone_s: float = NEVER  # spot: when the node is taken back


def initial_replicas(trace: Trace, profile: Profile) -> int:
    """Replicas that serve at the first arrival: enough for the busiest stretch of the first two
    start-up times, at four fifths of what a replica can do, so that the cut that made the trace
    decides no comparison. At least 1."""
    rates = profile.rates()
    stretch = max(profile.node.startup_s / 4, TICK_S)
    work = [0.0] * 8
    for at, prompt, generated in zip(
        trace.arrival_s, trace.prompt_tokens, trace.generated_tokens, strict=True
    ):
        index = int(at / stretch)
        if index >= len(work):
            break
        # However long a request is, it keeps no more than one replica busy.
        work[index] += min(rates.work_s(prompt, generated), stretch)
    return max(1, math.ceil(max(work) / stretch / 0.8))


def simulate(
    setting: Setting,
    contender: Contender,
    *,
    give_up: Callable[[int, int], bool] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Result:
    """Replay the setting's trace against one policy.

    `give_up(microdollars, late)` is asked now and then, and stops the run by raising GaveUp
    where it says so; `progress(share)` is told how much of the trace is done, 0 to 1.
    """
    run = _Run(setting, contender)
    duration = max(setting.trace.duration_s, TICK_S)
    now_s, ticks = 0.0, 0
    # A policy that stays at zero leaves the last requests unanswered: stop an hour after them.
    while not run.engine.done and now_s < duration + 3600:
        run.tick(now_s)
        now_s, ticks = run.next_tick_s(), ticks + 1
        if ticks % 60 == 0:
            if progress is not None:
                progress(min(1.0, now_s / duration))
            if give_up is not None and give_up(run.microdollars(), run.engine.counters.late):
                raise GaveUp
    return run.result()


class _Run:
    """One policy against one trace."""

    def __init__(self, setting: Setting, contender: Contender) -> None:
        profile = setting.profile
        self.setting = setting
        self.contender = contender
        self.limits = OverflowLimits(
            profile.targets.ttft_s, max(setting.shed_after_s, profile.targets.ttft_s)
        )
        self.remote = profile.remote_price() if setting.spill else None
        self.engine = Engine(
            setting.trace,
            profile.rates(),
            self.limits.ttft_s,
            self._admit,
            longest_wait_s(setting.shed_after_s, profile.node.startup_s),
        )
        self.random = random.Random(setting.seed)  # noqa: S311  a simulation, not a secret
        self.starting: list[_Node] = []
        self.serving: dict[int, _Node] = {}
        self.draining: dict[int, _Node] = {}
        self.paid_s: dict[Market, float] = {"on-demand": 0.0, "spot": 0.0}
        self.remote_microdollars = 0
        self.spilled_in_time = 0
        self.timeline: list[Moment] = []
        self.numbers = 0
        self.now_s = 0.0
        self.known = Wanted(0), 0  # what was wanted last, and what had arrived
        self.still_since_s = 0.0
        for _ in range(initial_replicas(setting.trace, profile)):
            self._order("on-demand", 0.0, startup_s=0.0)
        self._start_ready(0.0)

    # -- the door ----------------------------------------------------------------------------

    def _admit(self, request: int, now_s: float) -> str:
        wait_s = self.engine.expected_wait_s(request, now_s)
        prompt_s = self.engine.prompt_s(request)
        if self.remote is None:
            return overflow(wait_s, self.limits)
        trace = self.setting.trace
        price = self.remote.microdollars(
            trace.prompt_tokens[request], trace.generated_tokens[request]
        )
        verdict = overflow(wait_s, self.limits, price / MICRO, prompt_s)
        if verdict == "spill":
            self.remote_microdollars += price
            self.engine.first_s[request] = now_s + self.remote.ttft_s
        return verdict

    # -- the fleet ---------------------------------------------------------------------------

    def tick(self, now_s: float) -> None:
        """Everything up to `now_s`, then the policy's decision at `now_s`."""
        self._happen(now_s)
        self.now_s = now_s
        view = self._view()
        wanted = self.contender.decide(view)
        known = wanted, view.arrived
        if known != self.known or self.engine.ongoing or self.starting or self.draining:
            self.known, self.still_since_s = known, now_s
        self._steer("on-demand", wanted.on_demand, now_s)
        self._steer("spot", wanted.spot if self.setting.spot else 0, now_s)
        if now_s % 10 == 0:
            self.timeline.append(
                Moment(
                    now_s,
                    len(self.serving),
                    wanted.on_demand + wanted.spot,
                    view.queued_requests,
                    view.arrived,
                )
            )

    def next_tick_s(self) -> float:
        """When the policy is to be asked again: at the latest just before the next arrival."""
        soon_s = self.now_s + TICK_S
        still_s = self.now_s - self.still_since_s
        if still_s < _STILL_S:
            return soon_s
        late_s = (self.now_s + _STILL_SHARE * still_s) // _MINUTE_S * _MINUTE_S
        return max(soon_s, min(late_s, self.engine.next_arrival_s // TICK_S * TICK_S))

    def _happen(self, until_s: float) -> None:
        """Run the engine up to `until_s`, stopping where the fleet changes by itself."""
        while True:
            at, what = self._next_change(until_s)
            self.engine.advance(min(at, until_s))
            if what is None:
                break
            what(at)
        for number in [n for n in self.draining if self.engine.is_empty(n)]:
            self._retire(self.draining.pop(number), until_s)

    def _next_change(self, until_s: float) -> tuple[float, Callable[[float], None] | None]:
        at, what = until_s, None
        if self.starting:
            first = min(node.ready_s for node in self.starting)
            if first <= at:
                at, what = first, self._start_ready
        if self.setting.spot:
            spot = self.setting.profile.node.spot
            notice = spot.notice_s if spot else 0.0
            for node in self.serving.values():
                if node.gone_s - notice <= at:
                    at, what = node.gone_s - notice, self._take_notice
            for node in self.draining.values():
                if node.gone_s <= at:
                    at, what = node.gone_s, self._take_back
        return at, what

    def _start_ready(self, now_s: float) -> None:
        for node in [n for n in self.starting if n.ready_s <= now_s]:
            self.starting.remove(node)
            self.serving[node.number] = node
            self.engine.add(node.number, node.market, now_s)

    def _take_notice(self, now_s: float) -> None:
        spot = self.setting.profile.node.spot
        notice = spot.notice_s if spot else 0.0
        for node in [n for n in self.serving.values() if n.gone_s - notice <= now_s]:
            self._drain(node)

    def _take_back(self, now_s: float) -> None:
        for node in [n for n in self.draining.values() if n.gone_s <= now_s]:
            del self.draining[node.number]
            self._retire(node, now_s)

    def _order(self, market: Market, now_s: float, startup_s: float | None = None) -> None:
        node_section = self.setting.profile.node
        startup = node_section.startup_s if startup_s is None else startup_s
        node = _Node(self.numbers, market, now_s, now_s + startup)
        if market == "spot" and node_section.spot is not None:
            # Time lost before it serves counts as life as well: a node may go while starting,
            # which the policy meets as one that serves and gives notice at once.
            node.gone_s = max(
                node.ready_s, now_s + self.random.expovariate(1 / node_section.spot.mean_life_s)
            )
        self.numbers += 1
        self.starting.append(node)

    def _drain(self, node: _Node) -> None:
        del self.serving[node.number]
        self.draining[node.number] = node
        self.engine.drain(node.number)

    def _retire(self, node: _Node, now_s: float) -> None:
        self.engine.remove(node.number, now_s)
        self.paid_s[node.market] += now_s - node.ordered_s

    def _steer(self, market: Market, wanted: int, now_s: float) -> None:
        starting = [n for n in self.starting if n.market == market]
        serving = sum(1 for n in self.serving.values() if n.market == market)
        surplus = len(starting) + serving - max(0, wanted)
        for _ in range(-surplus):
            self._order(market, now_s)
        for node in reversed(starting):
            if surplus <= 0:
                break
            self.starting.remove(node)
            self.paid_s[market] += now_s - node.ordered_s
            surplus -= 1
        while surplus > 0:
            number = self.engine.least_loaded(market)
            if number is None:
                break
            self._drain(self.serving[number])
            surplus -= 1

    # -- what is seen ------------------------------------------------------------------------

    def _view(self) -> View:
        engine, counters = self.engine, self.engine.counters
        return View(
            now_s=self.now_s,
            replicas=len(self.serving),
            spot_replicas=sum(1 for n in self.serving.values() if n.market == "spot"),
            starting=len(self.starting),
            starting_spot=sum(1 for n in self.starting if n.market == "spot"),
            queued_requests=len(engine.queue),
            queued_prompt_tokens=engine.queued_prompt_tokens,
            running_requests=engine.ongoing,
            arrived=counters.arrived,
            arrived_prompt_tokens=counters.arrived_prompt_tokens,
            answered=counters.answered,
            generated_tokens=counters.generated_tokens,
            first_tokens=counters.first_tokens,
            late=counters.late,
            spilled=counters.spilled,
        )

    def _paid_s(self) -> dict[Market, float]:
        paid = dict(self.paid_s)
        for node in [*self.starting, *self.serving.values(), *self.draining.values()]:
            paid[node.market] += self.now_s - node.ordered_s
        return paid

    def microdollars(self) -> int:
        """The bill so far."""
        node = self.setting.profile.node
        paid = self._paid_s()
        total = bill_microdollars(node.usd_per_hour, paid["on-demand"])
        if node.spot is not None:
            total += bill_microdollars(node.spot.usd_per_hour, paid["spot"])
        return total + self.remote_microdollars

    def result(self) -> Result:
        """The bill and the percentiles, once every request has left."""
        engine, setting = self.engine, self.setting
        trace, targets = setting.trace, setting.profile.targets
        ttft, slow, lost = [], 0, 0
        for request in range(len(trace)):
            first, end = engine.first_s[request], engine.end_s[request]
            tokens = trace.generated_tokens[request]
            if first == NEVER:
                lost += 1
                continue
            ttft.append(first - trace.arrival_s[request])
            # Where it has no end it was answered elsewhere, or is still being written.
            if end != NEVER and tokens > 1 and (end - first) / (tokens - 1) > targets.tpot_s:
                slow += 1
        ttft.sort()
        in_time = sum(1 for wait in ttft if wait <= targets.ttft_s)
        count = len(trace)
        return Result(
            policy=self.contender.name,
            microdollars=self.microdollars(),
            ttft_attainment=round(in_time / count, 6),
            tpot_attainment=round(1 - (slow + lost) / count, 6),
            ttft_p50_s=round(percentile(ttft, 0.50), 4),
            ttft_p99_s=round(percentile(ttft, 0.99), 4),
            replica_hours=round(sum(self._paid_s().values()) / 3600, 4),
            requests=count,
            shed=lost,
            spilled=engine.counters.spilled,
            timeline=tuple(self.timeline),
        )


def may_be_late(attainment: float, requests: int) -> int:
    """How many of these requests may be late at that attainment."""
    # A tenth of ten is one, although 1 - 0.9 is a little less than a tenth.
    return math.floor((1 - attainment) * requests + 1e-9)


def percentile(ordered: list[float], share: float) -> float:
    """The smallest value that at least `share` of the sorted values do not exceed; 0 of none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
