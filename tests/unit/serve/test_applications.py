"""What is handed to Serve: every part under one budget."""

from __future__ import annotations

from typing import Any

from models.catalog import Catalog
from models.scaling import Fleet
from serve.applications import NAME, applications, model_applications, under_budget_of
from serve.settings import Settings


def catalog(usd_per_hour: float | None) -> Catalog:
    raw: dict[str, Any] = {"models": {"a": {"engine": "fake"}}, "roles": {"judge": "a"}}
    if usd_per_hour is not None:
        raw["fleet"] = {"usd_per_hour": usd_per_hour}
    return Catalog.model_validate(raw)


def entries(file: Catalog, ruling: Catalog) -> dict[str, dict[str, Any]]:
    settings = Settings(catalog=file, store="sqlite:///x.db", host="127.0.0.1")
    return {one["name"]: one for one in applications(settings, ruling)}


def test_the_door_and_the_models_have_the_budget_of_the_catalog_that_rules() -> None:
    found = entries(catalog(1), catalog(3))
    assert len(found) == 2
    for one in found.values():
        assert Fleet.model_validate(one["args"]["fleet"]).usd_per_hour == 3
    assert Settings.of(found[NAME]["args"]).fleet.usd_per_hour == 3


def test_a_config_that_names_no_budget_of_its_own_has_the_catalogs() -> None:
    raw = {"catalog": catalog(2).model_dump(mode="json"), "store": "sqlite:///x.db"}
    assert Settings.of(raw).fleet.usd_per_hour == 2


def test_a_model_that_comes_later_keeps_to_the_budget_of_the_start() -> None:
    running = entries(catalog(3), catalog(3))[NAME]
    later = model_applications(catalog(8)).values()
    [one] = under_budget_of(running, later)
    assert one["args"]["fleet"]["usd_per_hour"] == 3
    assert one["args"]["name"] == "a"
    assert next(iter(later))["args"]["fleet"]["usd_per_hour"] == 8, "the entry itself is as it was"


def test_names_that_look_alike_are_two_applications() -> None:
    models = {name: {"engine": "fake"} for name in ("a:b", "a/b", "a@b")}
    known = Catalog.model_validate({"models": models, "roles": {"judge": "a:b"}})
    assert len(model_applications(known)) == 3
