"""`fusion status --scaling`: what the scaling rule decided, from the cluster's metrics."""

from __future__ import annotations

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


def table(found: dict[str, dict[str, float]]) -> Table:
    """The decisions as a table for people."""
    made = Table("model", box=None, pad_edge=False)
    for title in COLUMNS.values():
        made.add_column(title, justify="right")
    for model, values in sorted(found.items()):
        made.add_row(model, *(f"{values[name]:g}" if name in values else "" for name in COLUMNS))
    return made
