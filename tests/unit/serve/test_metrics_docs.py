"""Keeps docs/metrics.md true: every metric that the code exports, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console

from cluster.scaling import gauges
from serve.cli.scaling import COLUMNS, PREFIX, decisions, places, table

ROOT = Path(__file__).parents[3]
MADE = re.compile(
    r"\b(Counter|Gauge|Histogram)\(\s*\"(fusion_[a-z_]+)\".*?tag_keys=(?:tags|\(([^)]*)\))", re.S
)
ROW = re.compile(r"^\| `(fusion_\w+)` \| (\w+) \| ([^|]*) \|", re.M)


def exported() -> dict[str, tuple[str, list[str]]]:
    found = {gauges.PREFIX + name: ("gauge", ["model"]) for name, *_ in gauges.SHOWN}
    of_place = ("gauge", ["model", "place"])
    found |= {gauges.PREFIX + name: of_place for name, *_ in gauges.SHOWN_BY_PLACE}
    for package in ("models", "router", "cluster", "serve"):
        for path in (ROOT / package).rglob("*.py"):
            for kind, name, labels in MADE.findall(path.read_text("utf-8")):
                found[name] = (kind.lower(), re.findall(r"\w+", labels) or ["model"])
    return found


def test_every_metric_stands_on_the_page_as_it_is() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    rows = {name: (kind, re.findall(r"\w+", labels)) for name, kind, labels in ROW.findall(page)}
    assert len(rows) > 10
    assert rows == exported()


@pytest.mark.parametrize("name", COLUMNS)
def test_the_command_shows_metrics_that_exist(name: str) -> None:
    assert PREFIX.removeprefix("ray_") + name in exported()


def test_the_command_reads_what_is_exported() -> None:
    text = (
        "# HELP ray_fusion_scaling_replicas_wanted Wanted.\n"
        "# TYPE ray_fusion_scaling_replicas_wanted gauge\n"
        'ray_fusion_scaling_replicas_wanted{model="m",Session="x"} 3.0\n'
        'ray_fusion_scaling_usd_per_hour{model="m"} 2.4\n'
        'ray_serve_num_replicas{model="m"} 3\n'
    )
    assert decisions(text) == {"m": {"replicas_wanted": 3.0, "usd_per_hour": 2.4}}
    assert decisions("") == {}


def test_the_command_tells_of_each_place_where_there_are_several(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = []
    for name, spot in (("replicas", 0), ("replicas_wanted", 4), ("left_alone", 1)):
        lines += [f"# TYPE ray_fusion_scaling_place_{name} gauge"]
        firm = 0 if name == "left_alone" else 1
        for place, value in (("node/on-demand", firm), ("node/spot", spot)):
            labels = f'model="m",place="{place}"'
            lines += [f"ray_fusion_scaling_place_{name}{{{labels}}} {value}"]
    where = places("\n".join(lines) + "\n")
    assert where["m"]["node/spot"] == {"replicas": 0, "replicas_wanted": 4, "left_alone": 1}
    Console(width=200).print(table({"m": {"replicas": 1.0}, "one": {}}, {}, where))
    told = capsys.readouterr().out
    assert "node/on-demand: 1;" in told
    assert "node/spot: 0 of 4 (did not come up, left alone for now)" in told
