"""What the scaling rule decided, as Ray metrics: exported with the prefix `ray_`.

Setting a gauge only writes to this process's memory, so it may be done in Serve's controller.
"""

from __future__ import annotations

from collections.abc import Callable

from ray.util import metrics as ray_metrics

from cluster.scaling.decision import CAUSES, Decision, Seen
from cluster.scaling.placement import HEALTHY

PREFIX = "fusion_scaling_"
_LARGEST_BACKLOG_S = 1e6  # stands for a backlog that nobody works on

#: Each gauge: its name after `PREFIX`, what it says, and how it is read.
SHOWN: tuple[tuple[str, str, Callable[[Decision, Seen], float]], ...] = (
    (
        "replicas_wanted",
        "Replicas that the scaling rule wants.",
        lambda decision, seen: decision.replicas,
    ),
    (
        "replicas",
        "Replicas that serve.",
        lambda decision, seen: seen.replicas,
    ),
    (
        "queue_depth",
        "Requests that wait in front of the replicas.",
        lambda decision, seen: seen.queued_requests,
    ),
    (
        "backlog_seconds",
        "Seconds that the waiting work takes at the present size.",
        lambda decision, seen: min(decision.backlog_s, _LARGEST_BACKLOG_S),
    ),
    (
        "load_replicas",
        "Work that arrives now, in replicas.",
        lambda decision, seen: decision.present_load,
    ),
    (
        "expected_load_replicas",
        "Work expected one start-up time from now, in replicas.",
        lambda decision, seen: decision.expected_load,
    ),
    (
        "expected_error_replicas",
        "Standard error of the expected work, in replicas.",
        lambda decision, seen: decision.expected_error,
    ),
    (
        "margin_errors",
        "Standard errors that the fleet stands above the expected work.",
        lambda decision, seen: decision.margin,
    ),
    (
        "usd_per_hour",
        "US dollars an hour of the replicas wanted.",
        lambda decision, seen: decision.placement.usd_per_hour,
    ),
)


#: The same of each place that a model may run in.
SHOWN_BY_PLACE: tuple[tuple[str, str, Callable[[Decision, Seen, str], float]], ...] = (
    (
        "place_replicas",
        "Replicas that serve in this place.",
        lambda decision, seen, place: seen.serving[place],
    ),
    (
        "place_replicas_wanted",
        "Replicas that the scaling rule wants in this place.",
        lambda decision, seen, place: decision.placement.replicas.get(place, 0),
    ),
    (
        "place_left_alone",
        "1 while nothing is ordered in this place because replicas there did not come up.",
        lambda decision, seen, place: (
            decision.state.health.get(place, HEALTHY).retry_at_s > seen.now_s
        ),
    ),
)


class Gauges:
    """The last decision of each model, tagged with its name."""

    def __init__(self) -> None:
        self._shown = [
            (ray_metrics.Gauge(PREFIX + name, description=says, tag_keys=("model",)), read)
            for name, says, read in SHOWN
        ]
        self._by_place = [
            (ray_metrics.Gauge(PREFIX + name, description=says, tag_keys=("model", "place")), read)
            for name, says, read in SHOWN_BY_PLACE
        ]
        self._cause = ray_metrics.Gauge(
            "fusion_scaling_cause",
            description="1 for each cause of the last decision, 0 for the others.",
            tag_keys=("model", "cause"),
        )

    def show(self, decision: Decision, seen: Seen) -> None:
        """Set all gauges of the decision's model."""
        tags = {"model": decision.model}
        for gauge, read in self._shown:
            gauge.set(float(read(decision, seen)), tags)
        for place in seen.serving:
            for gauge, of_place in self._by_place:
                gauge.set(float(of_place(decision, seen, place)), tags | {"place": place})
        for cause in CAUSES:
            self._cause.set(float(cause in decision.causes), tags | {"cause": cause})
