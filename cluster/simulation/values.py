"""The values of a simulation: what it is given, what a policy sees and wants, what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from cluster.cost import MICRO
from cluster.profile import Profile
from cluster.simulation.trace import Trace, rescale


@dataclass(frozen=True, slots=True)
class View:
    """What a policy sees at one moment. Counts; tokens; seconds. `arrived`, `answered`, and the
    like are totals since the start."""

    now_s: float
    replicas: int
    spot_replicas: int
    starting: int
    starting_spot: int
    queued_requests: int
    queued_prompt_tokens: int
    running_requests: int
    arrived: int
    arrived_prompt_tokens: int
    answered: int
    generated_tokens: int
    first_tokens: int
    late: int
    spilled: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many replicas a policy wants on each market, serving and starting together."""

    on_demand: int
    spot: int = 0


class Contender(Protocol):
    """A scaling policy in the simulator."""

    @property
    def name(self) -> str:
        """The name in the results."""
        ...

    def decide(self, view: View) -> Wanted:
        """How many replicas it wants now. Called once a second of the fake clock."""
        ...


@dataclass(frozen=True, slots=True)
class Setting:
    """What all policies of one comparison share."""

    trace: Trace
    profile: Profile
    spot: bool = False
    spill: bool = False
    seed: int = 0
    shed_after_s: float = 60.0


def make_setting(
    trace: Trace, profile: Profile, *, spot: bool = False, spill: bool = False, seed: int = 0
) -> Setting:
    """A comparison on that trace, made busier as the profile says."""
    return Setting(rescale(trace, profile.trace.rate_scale), profile, spot, spill, seed)


@dataclass(frozen=True, slots=True)
class Moment:
    """One point of the timeline, for plots: replicas serving and wanted, requests waiting."""

    at_s: float
    replicas: int
    wanted: int
    queued: int
    arrived: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a policy cost and reached. Money in micro-dollars, times in seconds.

    Percentiles are of the requests that got a first token. `tpot_attainment` is the share of
    all requests whose mean time between tokens met the target (spilled ones are not known and
    count as met).
    """

    policy: str
    microdollars: int
    ttft_attainment: float
    tpot_attainment: float
    ttft_p50_s: float
    ttft_p99_s: float
    replica_hours: float
    requests: int
    shed: int
    spilled: int
    settings: dict[str, float] = field(default_factory=dict)
    timeline: tuple[Moment, ...] = ()

    @property
    def dollars(self) -> float:
        """The bill in dollars, for people and for JSON."""
        return float(self.microdollars / MICRO)

    def as_object(self) -> dict[str, object]:
        """The object that `fusion simulate --json` prints: these keys and no others."""
        return {
            "policy": self.policy,
            "dollars": round(self.dollars, 6),
            "ttft_attainment": self.ttft_attainment,
            "ttft_p50_s": self.ttft_p50_s,
            "ttft_p99_s": self.ttft_p99_s,
            "replica_hours": self.replica_hours,
            "requests": self.requests,
            "shed": self.shed,
            "spilled": self.spilled,
        }
