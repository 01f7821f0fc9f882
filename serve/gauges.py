"""What the parts of a process count for Ray's metrics, wherever they run."""

from __future__ import annotations

from ray.util import metrics as ray_metrics


class RayAlarm:
    """Counts what must wake somebody: a bill above its reservation."""

    def __init__(self) -> None:
        self._overruns = ray_metrics.Counter(
            "fusion_bills_above_reservation_total",
            description="Bills that passed what was reserved for them, and froze their accounts.",
            tag_keys=("model",),
        )

    def overrun(self, model: str, nano_usd: int) -> None:
        self._overruns.inc(1, {"model": model})


class RayOverflows:
    """Counts requests of hosted models that did not fit."""

    def __init__(self) -> None:
        self._overflows = ray_metrics.Counter(
            "fusion_overflow_total",
            description="Requests that found no room: spilled, shed, or vetoed by the budget.",
            tag_keys=("model", "what"),
        )

    def count(self, model: str, what: str) -> None:
        self._overflows.inc(1, {"model": model, "what": what})


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
