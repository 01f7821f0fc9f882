"""Ray Serve's wrapper around the scaling decision.

    AutoscalingConfig(
        min_replicas=0, max_replicas=8, upscale_delay_s=0, downscale_delay_s=0,
        policy=AutoscalingPolicy(policy_function="cluster.scaling.policy:FusionScaling",
                                 policy_kwargs={"settings": {...}}))

The delays are zero because the decision holds by itself; with Serve's own on top, a replica
would come 30 s late. It runs inside Serve's controller: no I/O, and it never raises, for a policy
that does leaves its application DEPLOYING for ever. Serve does not ask a policy at zero replicas
with requests waiting, it starts one: a veto of the budget there sits in the dispatcher.

Replicas report (`record_autoscaling_stats`) these running totals, summed here:
`prompt_tokens`, `generated_tokens`, `answered`, `first_tokens`, `late`, and `elsewhere`: requests
that came but were answered by another model, because this one had no room. Without them requests
are counted at the mean tokens of the settings.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from cluster.profile import parse_profile
from cluster.scaling.budget import Budget
from cluster.scaling.decision import (
    Decision,
    ModelScaling,
    ScalingState,
    ScalingTargets,
    Seen,
    decide,
)
from cluster.scaling.fleet import FLEET, Fleet

logger = logging.getLogger(__name__)

Show = Callable[[Decision, Seen], None]
TOTALS = ("prompt_tokens", "generated_tokens", "answered", "first_tokens", "late", "elsewhere")


def settings_from(content: Mapping[str, Any]) -> ModelScaling:
    """The scaling settings of a deployment, from plain values (they travel inside a config).

    content: `model` (name), `profile` (the content of a profile file), and optionally `spot`,
    `spill`, `min_replicas`, `max_replicas`, `priority`, `late_usd`; `budget` is for `budget_from`.
    Raises ProfileError for a profile that is not one, FitError where its node does not hold its
    replica, ValueError for the rest.
    """
    profile = parse_profile(content.get("profile"), "the policy's profile")
    known = {"model", "profile", "spot", "spill", "min_replicas", "max_replicas", "priority"}
    unknown = set(content) - known - {"late_usd", "budget"}
    if unknown:
        raise ValueError(f"unknown scaling settings: {', '.join(sorted(unknown))}")
    name = str(content.get("model", "model"))
    return ModelScaling(
        name=name,
        offers=profile.offers(name, spot=bool(content.get("spot", False))),
        targets=ScalingTargets(profile.targets.ttft_s, profile.targets.attainment),
        min_replicas=int(content.get("min_replicas", 0)),
        max_replicas=int(content.get("max_replicas", 1000)),
        remote=profile.remote_price() if content.get("spill", False) else None,
        priority=float(content.get("priority", 1.0)),
        late_usd=float(content.get("late_usd", 0.01)),
    )


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
    """One deployment's policy. `last` is its latest decision, for status and metrics."""

    def __init__(
        self, settings: Mapping[str, Any], show: Show | None = None, fleet: Fleet = FLEET
    ) -> None:
        """`show` is told each decision; by default it becomes metrics (`gauges`)."""
        self._fleet = fleet
        self._budget = Budget()
        self._settings = dict(settings)
        self._show = show
        self._model: ModelScaling | None = None
        self._state = ScalingState()
        self._told = False
        # Totals of replicas that are gone must not fall out of the sums.
        self._totals: dict[str, dict[str, float]] = {name: {} for name in TOTALS}
        self._arrived = 0.0
        self.last: Decision | None = None

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """Replicas wanted, and what Serve keeps for `fusion status`: the explanation."""
        try:
            if self._model is None:
                self._model = settings_from(self._settings)
                self._budget = budget_from(self._settings)
            seen = self._seen(ctx)
            wish = decide(self._model, seen, self._state)
            application = str(getattr(ctx, "app_name", None) or "")
            decision = self._fleet.grant(self._model, wish, seen, self._budget, application)
        except Exception:  # it runs in the controller: see above
            self._complain("the scaling decision failed; the present target is kept")
            return int(ctx.target_num_replicas), dict(getattr(ctx, "policy_state", None) or {})
        if self.last is None or decision.replicas != self.last.replicas:
            logger.info("scaling %s: %s", decision.model, decision.why)
        self._state, self.last = decision.state, decision
        try:
            self._tell(decision, seen)
        except Exception:  # a policy that raises leaves its application DEPLOYING for ever
            self._complain("the scaling decision cannot be shown in the metrics")
        return decision.replicas, {"why": decision.why, "backlog_s": decision.backlog_s}

    def _complain(self, what: str) -> None:
        if not self._told:
            self._told = True
            logger.exception(what)

    def _tell(self, decision: Decision, seen: Seen) -> None:
        if self._show is None:
            from cluster.scaling.gauges import Gauges

            self._show = Gauges().show
        self._show(decision, seen)

    def _seen(self, ctx: Any) -> Seen:
        assert self._model is not None
        metrics = ctx.aggregated_metrics or {}
        for name in TOTALS:
            known = self._totals[name]
            for replica, value in (metrics.get(name) or {}).items():
                known[str(replica)] = max(known.get(str(replica), 0.0), float(value))
        total = {name: sum(values.values()) for name, values in self._totals.items()}
        queued, running = float(ctx.total_queued_requests), float(ctx.total_running_requests)
        # What has arrived is what was answered and what is here. A mean that falls is no
        # negative arrival, so the total never falls.
        self._arrived = max(
            self._arrived, total["answered"] + total["elsewhere"] + queued + running
        )
        prompt_mean = (
            total["prompt_tokens"] / total["answered"]
            if total["answered"] and total["prompt_tokens"]
            else self._model.expected_tokens[0]
        )
        return Seen(
            now_s=float(ctx.current_time if ctx.current_time is not None else time.time()),
            replicas=int(ctx.current_num_replicas),
            starting=max(0, int(ctx.target_num_replicas) - int(ctx.current_num_replicas)),
            queued_requests=queued,
            queued_prompt_tokens=queued * prompt_mean,
            running_requests=running,
            arrived=self._arrived,
            arrived_prompt_tokens=self._arrived * prompt_mean,
            answered=total["answered"],
            generated_tokens=total["generated_tokens"],
            first_tokens=total["first_tokens"],
            late=total["late"],
        )
