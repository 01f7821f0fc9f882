"""`fusion status --scaling`: what the scaling rule decided, from the cluster's metrics."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

PREFIX = "ray_fusion_scaling_"
#: Metric → the column that shows it, in order.
COLUMNS = {
    "replicas": "replicas",
    "replicas_wanted": "wanted",
    "queue_depth": "queue",
    "backlog_seconds": "backlog s",
    "load_replicas": "load",
    "expected_load_replicas": "expected",
    "expected_error_replicas": "±",
    "margin_errors": "margin",
    "usd_per_hour": "$/h",
}


#: Of the gauge `cause`: what each means.
CAUSES = {
    "jump": "more arrives than was expected",
    "backlog": "what waits is worked off",
    "prompts": "so that prompts need not queue",
    "slow down": "going down slowly",
    "asked": "back from zero: somebody waits",
    "kept warm": "a cold start would cost more than idling",
    "idle": "idle for longer than a cold start costs",
    "bounds": "min or max of the catalog",
    "budget": "the budget of all models allows no more",
}


def decisions(metrics: str) -> dict[str, dict[str, float]]:
    """The last decision of each model, by the metric's name without its prefix."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(metrics):
        name = family.name.removeprefix(PREFIX)
        if name == family.name or name not in COLUMNS:
            continue
        for sample in family.samples:
            found.setdefault(sample.labels.get("model", ""), {})[name] = sample.value
    return found


def causes(metrics: str) -> dict[str, list[str]]:
    """Why each model's last decision is what it is, in words."""
    found: dict[str, list[str]] = {}
    for family in text_string_to_metric_families(metrics):
        if family.name == PREFIX + "cause":
            for sample in family.samples:
                if sample.value:
                    cause = sample.labels.get("cause", "")
                    words = found.setdefault(sample.labels.get("model", ""), [])
                    words.append(CAUSES.get(cause, cause))
    return found


def table(found: dict[str, dict[str, float]], why: Mapping[str, list[str]]) -> Table:
    """The decisions as a table for people."""
    made = Table("model", box=None, pad_edge=False)
    for title in COLUMNS.values():
        made.add_column(title, justify="right")
    made.add_column("why")
    for model, values in sorted(found.items()):
        figures = (f"{values[name]:g}" if name in values else "" for name in COLUMNS)
        made.add_row(model, *figures, "; ".join(why.get(model, ["for the load"])))
    return made
