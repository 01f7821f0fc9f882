"""The policies that the simulator compares, by name:

ours            the scaling decision of this program (`scaling.decide`)
serve-default   Ray Serve's default policy, tuned over the profile's grid
static:N        N replicas from start to end
oracle          the cheapest schedule of one who knows the future
MODULE:CLASS    a Serve autoscaling policy class of your own
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cluster.errors import PolicyError
from cluster.scaling.decision import (
    Decision,
    ModelScaling,
    ScalingState,
    ScalingTargets,
    Seen,
    decide,
)
from cluster.scaling.placement import keep_until_replaced
from cluster.simulation.simulator import (
    GaveUp,
    Result,
    Setting,
    View,
    Wanted,
    may_be_late,
    simulate,
)

COMPARED = ("serve-default", "ours", "oracle")
Progress = Callable[[float], None]
_MOST_REPLICAS = 100_000


@dataclass(frozen=True, slots=True)
class Static:
    """Always the same number of replicas."""

    replicas: int

    @property
    def name(self) -> str:
        """static:N"""
        return f"static:{self.replicas}"

    def decide(self, view: View) -> Wanted:
        """The number, whatever is seen."""
        return Wanted(self.replicas)


class Ours:
    """The scaling decision, fed with what the simulator sees. `last` is its last decision."""

    name = "ours"

    def __init__(self, setting: Setting) -> None:
        profile = setting.profile
        name = "simulated"
        targets = profile.targets
        self.model = ModelScaling(
            name,
            profile.offers(name, spot=setting.spot),
            ScalingTargets(targets.ttft_s, targets.attainment),
            remote=profile.remote_price() if setting.spill else None,
            max_replicas=_MOST_REPLICAS,
        )
        self.last: Decision | None = None

    def decide(self, view: View) -> Wanted:
        """What `scaling.decide` says, market by market, nothing given up before its replacement
        serves."""
        serving = {
            "node/on-demand": view.replicas - view.spot_replicas,
            "node/spot": view.spot_replicas,
        }
        seen = Seen(
            now_s=view.now_s,
            replicas=view.replicas,
            starting=view.starting,
            queued_requests=view.queued_requests,
            queued_prompt_tokens=view.queued_prompt_tokens,
            running_requests=view.running_requests,
            arrived=view.arrived,
            arrived_prompt_tokens=view.arrived_prompt_tokens,
            answered=view.answered,
            generated_tokens=view.generated_tokens,
            first_tokens=view.first_tokens,
            late=view.late,
        )
        self.last = decide(self.model, seen, self.last.state if self.last else ScalingState())
        wanted = keep_until_replaced(self.last.placement.replicas, serving)
        return Wanted(wanted.get("node/on-demand", 0), wanted.get("node/spot", 0))


Run = Callable[[Setting, Progress | None], Result]


def policy_named(name: str) -> Run:
    """What simulates the policy of that name. Raises PolicyError for a name that is none of the
    above, or a class that cannot be loaded."""
    if name == "ours":
        return lambda setting, progress: simulate(setting, Ours(setting), progress=progress)
    if name == "oracle":
        from cluster.simulation.oracle import find_oracle

        return find_oracle
    if name == "serve-default":
        return tune_serve_default
    if name.startswith("static:"):
        static = Static(_replicas(name.removeprefix("static:")))
        return lambda setting, progress: simulate(setting, static, progress=progress)
    if ":" in name:
        from cluster.simulation.serve_adapter import user_policy

        user = user_policy(name)
        return lambda setting, progress: simulate(setting, user, progress=progress)
    raise PolicyError(
        f"no policy {name}: use ours, serve-default, static:N, oracle, MODULE:CLASS or all"
    )


def _replicas(text: str) -> int:
    # Python reads no number of thousands of digits.
    count = int(text) if text.isdecimal() and len(text) < 20 else 0
    if not 1 <= count <= _MOST_REPLICAS:
        raise PolicyError(
            f"static:N needs a whole number of replicas from 1 to {_MOST_REPLICAS}, not {text:.20}"
        )
    return count


def run_policy(name: str, setting: Setting, progress: Progress | None = None) -> Result:
    """Simulate the policy of that name. Raises PolicyError as `policy_named` does."""
    return policy_named(name)(setting, progress)


def tune_serve_default(setting: Setting, progress: Progress | None = None) -> Result:
    """Serve's default policy at the cheapest settings of the grid that reach the attainment, else
    at the best attained. `settings` of the result says which.

    A run is stopped as soon as it cannot win any more: it is dearer than a run that reached the
    attainment, or later than the best (money and lateness only grow).
    """
    from cluster.simulation.serve_adapter import serve_default, serve_default_grid

    attainment = setting.profile.targets.attainment
    allowed = may_be_late(attainment, len(setting.trace))
    best: Result | None = None
    reached = False

    def hopeless(microdollars: int, late: int) -> bool:
        if best is None:
            return False
        if reached:
            return microdollars > best.microdollars or late > allowed
        return late > max(allowed, round((1 - best.ttft_attainment) * len(setting.trace)))

    grid = serve_default_grid(setting.profile)
    for number, settings in enumerate(grid):
        if progress is not None:
            progress(number / len(grid))
        try:
            result = simulate(setting, serve_default(settings), give_up=hopeless)
        except GaveUp:
            continue
        wins = result.ttft_attainment >= attainment
        if (
            best is None
            or (wins and not reached)
            or (wins and result.microdollars < best.microdollars)
            or (not reached and result.ttft_attainment > best.ttft_attainment)
        ):
            best, reached = replace(result, settings=settings), wins
    assert best is not None
    return best


def recovered(default: Result, ours: Result, oracle: Result) -> float | None:
    """The share of the dollars between serve-default and the oracle that ours saves, or None
    where there is nothing between them."""
    between = default.microdollars - oracle.microdollars
    return (default.microdollars - ours.microdollars) / between if between > 0 else None
