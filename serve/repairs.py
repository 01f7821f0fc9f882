"""Counts what had to be mended in answers, for `/metrics`."""

from __future__ import annotations

from ray.util import metrics as ray_metrics


class RayRepairs:
    """A `models.wrappers.repair.Count` in Ray's metrics. Exported with the prefix `ray_`."""

    def __init__(self) -> None:
        self._repairs = ray_metrics.Counter(
            "fusion_repairs_total",
            description="What had to be mended in a model's answers, by model and kind.",
            tag_keys=("model", "repair"),
        )

    def __call__(self, model: str, repair: str) -> None:
        self._repairs.inc(1, {"model": model, "repair": repair})
