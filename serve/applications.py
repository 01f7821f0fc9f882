"""The applications as entries of a Ray Serve config. Imports no Ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from models.catalog import Catalog
from models.workforce.names import application_name, hosted
from serve.settings import Settings

#: The application that answers.
NAME = "fusion"


def applications(settings: Settings, catalog: Catalog) -> list[dict[str, Any]]:
    """All of it as entries of a Serve config's `applications`: what answers, under `settings`,
    and the models of `catalog`, within what its `fleet` allows."""
    settings = settings.model_copy(update={"fleet": catalog.fleet})
    own = {
        "name": NAME,
        "route_prefix": "/",
        "import_path": "serve.app:build",
        "args": settings.model_dump(mode="json"),
    }
    return [own, *model_applications(catalog).values()]


def model_applications(catalog: Catalog) -> dict[str, dict[str, Any]]:
    """The entries of the hosted models alone, by the application's name."""
    return {
        (application := application_name(name, spec)): {
            "name": application,
            "route_prefix": None,
            "import_path": "models.workforce.app:build",
            "args": {
                "name": name,
                "spec": spec.model_dump(mode="json"),
                "fleet": catalog.fleet.model_dump(mode="json"),
            },
        }
        for name, spec in hosted(catalog).items()
    }


def under_budget_of(
    running: Mapping[str, Any], models: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """These entries of models, within what all may cost since `running`, the entry of what answers,
    was started: a budget that only some of the models keep to is none."""
    fleet = running["args"].get("fleet")
    return [{**one, "args": {**one["args"], "fleet": fleet}} for one in models]
