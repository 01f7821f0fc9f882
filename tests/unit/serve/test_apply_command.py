"""`fusion apply`: which applications it ends, whatever becomes of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from models.catalog import Catalog
from serve.applications import NAME, model_applications
from serve.cli import app, edition


def catalog(*models: str) -> Catalog:
    raw = {"models": {name: {"engine": "fake"} for name in models}, "roles": {"judge": models[0]}}
    return Catalog.model_validate(raw)


class Cluster:
    """A server on this machine with its Serve. `lost` are methods whose answer never comes."""

    def __init__(self, present: Catalog) -> None:
        self.present = present
        self.version = 1
        self.lost: set[str] = set()
        self.refuses = False
        #: How long the command waited, and what ran meanwhile.
        self.waited: list[tuple[float, set[str]]] = []
        #: What somebody else puts in force after this command's change.
        self.afterwards: Catalog | None = None
        own: dict[str, Any] = {NAME: {"name": NAME, "args": {}}}
        self.running = own | model_applications(present)

    def ask(self, _: str, method: str, path: str, body: Any = None) -> Any:
        if method == "PUT" and not self.refuses:
            self.present = self.afterwards or Catalog.model_validate_json(body["catalog"])
            self.version += 1
        if method in self.lost or (method == "PUT" and self.refuses):
            raise typer.Exit(1)
        if method == "PUT" and "GET later" in self.lost:
            self.lost.add("GET")
        return {"version": self.version, "catalog": self.present.model_dump(mode="json")}

    def deploy(self, _: object, applications: Sequence[Mapping[str, Any]]) -> None:
        self.running = {one["name"]: dict(one) for one in applications}

    def sleep(self, seconds: float) -> None:
        self.waited.append((seconds, set(self.running)))

    def runs(self, wanted: Catalog) -> bool:
        return model_applications(wanted).keys() <= self.running.keys()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(catalog("old"))
    monkeypatch.setattr(edition, "ask", made.ask)
    monkeypatch.setattr(edition, "_local", lambda _: made)
    monkeypatch.setattr(edition.time, "sleep", made.sleep)
    monkeypatch.setattr(edition.serving, "deployed", lambda _: dict(made.running))
    monkeypatch.setattr(edition.serving, "deploy", made.deploy)
    monkeypatch.setattr(edition.serving, "wait_until_running", lambda *_: None)
    return made


def apply(tmp_path: Path, wanted: Catalog) -> Result:
    file = tmp_path / "fusion.yaml"
    file.write_text(wanted.model_dump_json(), encoding="utf-8")
    return CliRunner().invoke(app, ["apply", str(file), "--drain", "7"])


def test_what_is_replaced_goes_on_for_what_began_before(cluster: Cluster, tmp_path: Path) -> None:
    both = {NAME, *model_applications(catalog("old")), *model_applications(catalog("new"))}
    assert apply(tmp_path, catalog("new")).exit_code == 0
    assert cluster.waited == [(7.0, both)]


def test_what_the_new_catalog_has_no_more_is_ended(cluster: Cluster, tmp_path: Path) -> None:
    assert apply(tmp_path, catalog("new")).exit_code == 0
    assert cluster.running.keys() == {NAME, *model_applications(catalog("new"))}


def test_what_a_refused_catalog_started_is_ended(cluster: Cluster, tmp_path: Path) -> None:
    cluster.refuses = True
    assert apply(tmp_path, catalog("new")).exit_code == 1
    assert cluster.running.keys() == {NAME, *model_applications(catalog("old"))}


def test_a_catalog_that_is_in_force_keeps_its_models_though_nobody_heard_of_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.lost = {"PUT"}
    assert apply(tmp_path, catalog("new")).exit_code == 1
    assert cluster.runs(catalog("new"))


def test_models_that_somebody_else_put_in_force_meanwhile_are_kept(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.afterwards = catalog("new", "old")
    assert apply(tmp_path, catalog("new")).exit_code == 0
    assert cluster.runs(catalog("new", "old"))


def test_nothing_is_ended_where_nobody_knows_what_is_in_force(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.lost = {"GET later"}
    apply(tmp_path, catalog("new"))
    assert cluster.runs(catalog("new", "old"))


def test_a_catalogs_names_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"version": 2, "at": 0, "origin": "apply", "by": "", "note": "", "changes": ["a [/x] b"]}
    monkeypatch.setattr(edition, "ask", lambda *_: {"data": [told]})
    shown = Console(record=True, width=200)
    monkeypatch.setattr(edition, "out", shown)
    edition.history(url="http://127.0.0.1:1")
    assert "a [/x] b" in shown.export_text()
