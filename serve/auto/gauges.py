"""The router's own figures as Ray's metrics, exported with the prefix `ray_`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util import metrics

_GAUGES = {
    "flagship_share": "Part of the last 500 answers' tokens that flagships wrote.",
    "target_share": "Part that they should write, by the last request that said one.",
    "calibration_error": "Mean distance of predicted from true scores, over ten bins.",
    "regret": "How much better the best single model seems than what was chosen, in score.",
    "explored_usd_today": "US dollars that exploring was expected to cost today.",
    "judgements": "Answers that were judged.",
}


class RouterGauges:
    """Every replica shows what all replicas learned; a graph wants their maximum, not their sum."""

    def __init__(self) -> None:
        self._gauges = {
            name: metrics.Gauge(f"fusion_router_{name}", description=text)
            for name, text in _GAUGES.items()
        }

    def show(self, status: Mapping[str, Any]) -> None:
        for name, gauge in self._gauges.items():
            if status[name] is not None:
                gauge.set(float(status[name]))
