"""`fusion status --scaling`: what the scaling rule decided, from the cluster's metrics."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

PREFIX = "ray_fusion_scaling_"
BY_PLACE = PREFIX + "place_"
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


def places(metrics: str) -> dict[str, dict[str, dict[str, float]]]:
    """By model and place: replicas, those wanted, and whether it is left alone, by the metric's
    name without its prefix."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for family in text_string_to_metric_families(metrics):
        if not family.name.startswith(BY_PLACE):
            continue
        for sample in family.samples:
            model, place = sample.labels.get("model", ""), sample.labels.get("place", "")
            here = found.setdefault(model, {}).setdefault(place, {})
            here[family.name.removeprefix(BY_PLACE)] = sample.value
    return found


def told_of(place: str, here: Mapping[str, float]) -> str:
    """How many run in a place."""
    runs, wanted = here.get("replicas", 0), here.get("replicas_wanted", 0)
    told = f"{place}: {runs:g}" + (f" of {wanted:g}" if wanted != runs else "")
    return told + (" (did not come up, left alone for now)" if here.get("left_alone") else "")


def table(
    found: dict[str, dict[str, float]],
    why: Mapping[str, list[str]],
    where: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> Table:
    """The decisions as a table for people; where a model has several places, with what runs in
    each."""
    made = Table("model", box=None, pad_edge=False)
    for title in COLUMNS.values():
        made.add_column(title, justify="right")
    made.add_column("why")
    for model, values in sorted(found.items()):
        figures = (f"{values[name]:g}" if name in values else "" for name in COLUMNS)
        words = list(why.get(model, ["for the load"]))
        if len(here := where.get(model, {})) > 1:
            words += [told_of(place, seen) for place, seen in sorted(here.items())]
        made.add_row(model, *figures, "; ".join(words))
    return made
