"""What the scaling rule decided, as Ray metrics: exported with the prefix `ray_`.

Setting a gauge only writes to this process's memory, so it may be done in Serve's controller.
"""

from __future__ import annotations

from ray.util import metrics as ray_metrics

from cluster.scaling.decision import CAUSES, Decision, Seen

_LARGEST_BACKLOG_S = 1e6  # stands for a backlog that nobody works on


class Gauges:
    """The last decision of each model, tagged with its name."""

    def __init__(self) -> None:
        tags = ("model",)
        self._wanted = ray_metrics.Gauge(
            "fusion_scaling_replicas_wanted",
            description="Replicas that the scaling rule wants.",
            tag_keys=tags,
        )
        self._serving = ray_metrics.Gauge(
            "fusion_scaling_replicas", description="Replicas that serve.", tag_keys=tags
        )
        self._queued = ray_metrics.Gauge(
            "fusion_scaling_queue_depth",
            description="Requests that wait in front of the replicas.",
            tag_keys=tags,
        )
        self._backlog = ray_metrics.Gauge(
            "fusion_scaling_backlog_seconds",
            description="Seconds that the waiting work takes at the present size.",
            tag_keys=tags,
        )
        self._load = ray_metrics.Gauge(
            "fusion_scaling_load_replicas",
            description="Work that arrives now, in replicas.",
            tag_keys=tags,
        )
        self._expected = ray_metrics.Gauge(
            "fusion_scaling_expected_load_replicas",
            description="Work expected one start-up time from now, in replicas.",
            tag_keys=tags,
        )
        self._error = ray_metrics.Gauge(
            "fusion_scaling_expected_error_replicas",
            description="Standard error of the expected work, in replicas.",
            tag_keys=tags,
        )
        self._margin = ray_metrics.Gauge(
            "fusion_scaling_margin_errors",
            description="Standard errors that the fleet stands above the expected work.",
            tag_keys=tags,
        )
        self._dollars = ray_metrics.Gauge(
            "fusion_scaling_usd_per_hour",
            description="US dollars an hour of the replicas wanted.",
            tag_keys=tags,
        )

        self._cause = ray_metrics.Gauge(
            "fusion_scaling_cause",
            description="1 for each cause of the last decision, 0 for the others.",
            tag_keys=("model", "cause"),
        )

    def show(self, decision: Decision, seen: Seen) -> None:
        """Set all gauges of the decision's model."""
        tags = {"model": decision.model}
        for gauge, value in (
            (self._wanted, decision.replicas),
            (self._serving, seen.replicas),
            (self._queued, seen.queued_requests),
            (self._backlog, min(decision.backlog_s, _LARGEST_BACKLOG_S)),
            (self._load, decision.present_load),
            (self._expected, decision.expected_load),
            (self._error, decision.expected_error),
            (self._margin, decision.margin),
            (self._dollars, decision.placement.usd_per_hour),
        ):
            gauge.set(float(value), tags)
        for cause in CAUSES:
            self._cause.set(float(cause in decision.causes), tags | {"cause": cause})
