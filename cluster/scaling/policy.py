"""Ray Serve's wrapper around the scaling decision.

    AutoscalingConfig(
        min_replicas=0, max_replicas=8, upscale_delay_s=0, downscale_delay_s=0,
        policy=AutoscalingPolicy(policy_function="cluster.scaling.policy:FusionScaling",
                                 policy_kwargs={"settings": {...}}))

The delays are zero because the decision holds by itself; with Serve's own on top, a replica
would come 30 s late. It runs inside Serve's controller: no I/O, and it never raises, for a policy
that does leaves its application DEPLOYING for ever. Serve does not ask a policy at zero replicas
with requests waiting, it starts one: a veto of the budget there sits in the dispatcher.

A model that may run in several places has a deployment in each, whose policy is told which
(`place`); the decision is one for all of them (`fleet`).

Replicas report (`record_autoscaling_stats`) these running totals, summed here:
`prompt_tokens`, `generated_tokens`, `answered`, `first_tokens`, `late`, `asked` and of those
`patient`: requests that nobody waits for (batch work), and `elsewhere`: requests that came but were
answered by another model, because this one had no room. Without them requests are counted at the
mean tokens of the settings.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any

from cluster.cost import Offer
from cluster.profile import Profile, parse_profile
from cluster.scaling import fleet as shared
from cluster.scaling.budget import Budget
from cluster.scaling.decision import Decision, ModelScaling, ScalingTargets, Seen
from cluster.scaling.fleet import Fleet, Part

logger = logging.getLogger(__name__)

Show = Callable[[Decision, Seen], None]
TOTALS = (
    *("prompt_tokens", "generated_tokens", "answered", "first_tokens", "late"),
    *("elsewhere", "asked", "patient"),
)


def settings_from(content: Mapping[str, Any]) -> ModelScaling:
    """The scaling settings of a deployment, from plain values (they travel inside a config).

    content: `model` (name), `profile` (the content of a profile file), and optionally
    `other_profiles` (by node type), `places` (those that count; else all that are on demand),
    `on_demand_floor`, `spill`, `min_replicas`, `max_replicas`, `priority`, `late_usd`; `budget` is
    for `budget_from`. Raises ProfileError for a profile that is not one, FitError where its node
    does not hold its replica, ValueError for the rest.
    """
    profile = parse_profile(content.get("profile"), "the policy's profile")
    known = {"model", "profile", "other_profiles", "places", "on_demand_floor", "spill"}
    known |= {"min_replicas", "max_replicas", "priority", "late_usd", "budget"}
    unknown = set(content) - known
    if unknown:
        raise ValueError(f"unknown scaling settings: {', '.join(sorted(unknown))}")
    name = str(content.get("model", "model"))
    profiles = {"node": profile} | {
        node: parse_profile(other, f"the policy's profile of {node}")
        for node, other in (content.get("other_profiles") or {}).items()
    }
    return ModelScaling(
        name=name,
        offers=_offers(name, profiles, content.get("places")),
        targets=ScalingTargets(profile.targets.ttft_s, profile.targets.attainment),
        min_replicas=int(content.get("min_replicas", 0)),
        max_replicas=int(content.get("max_replicas", 1000)),
        remote=profile.remote_price() if content.get("spill", False) else None,
        priority=float(content.get("priority", 1.0)),
        late_usd=float(content.get("late_usd", 0.01)),
        on_demand_floor=float(content.get("on_demand_floor", 0.2)),
    )


def _offers(
    name: str, profiles: Mapping[str, Profile], places: Sequence[str] | None
) -> tuple[Offer, ...]:
    """Of these profiles by node type, in these places; the cheapest request first."""
    found = chain.from_iterable(
        profile.offers(name, node=node, spot=places is not None)
        for node, profile in profiles.items()
    )
    chosen = [offer for offer in found if places is None or offer.key in places]
    return tuple(sorted(chosen, key=lambda offer: offer.usd_per_request()))


def budget_from(content: Mapping[str, Any]) -> Budget:
    """The budget of all models together, from `budget` in a deployment's settings: `usd_per_hour`
    and `usd_per_day`, both optional."""
    given = content.get("budget") or {}
    limits = {
        unit: Decimal(str(given[unit]))
        for unit in ("usd_per_hour", "usd_per_day")
        if given.get(unit) is not None
    }
    return Budget(**limits)


class FusionScaling:
    """One deployment's policy. `last` is the latest decision, for status and metrics."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        place: str = "node/on-demand",
        show: Show | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        """`place` is the key of the offer that the deployment's replicas run on. `show` is told
        each decision; by default it becomes metrics (`gauges`)."""
        # Serve ships this module to its controller by value, with all that it names: the fleet
        # that all share has to be looked up there.
        self._fleet = fleet if fleet is not None else shared.FLEET
        self._place = place
        self._budget = Budget()
        self._settings = dict(settings)
        self._show = show
        self._model: ModelScaling | None = None
        self._told = False
        # Totals of replicas that are gone must not fall out of the sums.
        self._totals: dict[str, dict[str, float]] = {name: {} for name in TOTALS}
        # What replicas had done before anybody looked is no news: a controller may have restarted.
        self._ran_before: frozenset[str] | None = None
        self._before: dict[str, dict[str, float]] = {name: {} for name in TOTALS}
        self.last: Decision | None = None

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """Replicas wanted, and what Serve keeps for `fusion status`: the explanation."""
        try:
            if self._model is None:
                self._model = settings_from(self._settings)
                self._budget = budget_from(self._settings)
            application = str(getattr(ctx, "app_name", None) or "")
            decided = self._fleet.decide(
                self._model, self._place, self._part(ctx), self._budget, application
            )
        except Exception:  # it runs in the controller: see above
            self._complain("the scaling decision failed; the present target is kept")
            return int(ctx.target_num_replicas), dict(getattr(ctx, "policy_state", None) or {})
        if decided is None:
            return int(ctx.target_num_replicas), dict(getattr(ctx, "policy_state", None) or {})
        decision, seen = decided
        if self.last is None or decision.replicas != self.last.replicas:
            logger.info("scaling %s: %s", decision.model, decision.why)
        self.last = decision
        try:
            self._tell(decision, seen)
        except Exception:  # a policy that raises leaves its application DEPLOYING for ever
            self._complain("the scaling decision cannot be shown in the metrics")
        here = decision.placement.replicas.get(self._place, 0)
        return here, {"why": decision.why, "backlog_s": decision.backlog_s}

    def _complain(self, what: str) -> None:
        if not self._told:
            self._told = True
            logger.exception(what)

    def _tell(self, decision: Decision, seen: Seen) -> None:
        if self._show is None:
            from cluster.scaling.gauges import Gauges

            self._show = Gauges().show
        self._show(decision, seen)

    def _part(self, ctx: Any) -> Part:
        metrics = ctx.aggregated_metrics or {}
        if self._ran_before is None:
            self._ran_before = frozenset(map(str, getattr(ctx, "running_replicas", ())))
        for name in TOTALS:
            known, before = self._totals[name], self._before[name]
            for replica, value in (metrics.get(name) or {}).items():
                if str(replica) in self._ran_before:
                    before.setdefault(str(replica), float(value))
                known[str(replica)] = max(known.get(str(replica), 0.0), float(value))
        return Part(
            now_s=float(ctx.current_time if ctx.current_time is not None else time.time()),
            replicas=int(ctx.current_num_replicas),
            starting=max(0, int(ctx.target_num_replicas) - int(ctx.current_num_replicas)),
            queued=float(ctx.total_queued_requests),
            running=float(ctx.total_running_requests),
            totals={
                name: sum(values.values()) - sum(self._before[name].values())
                for name, values in self._totals.items()
            },
        )
