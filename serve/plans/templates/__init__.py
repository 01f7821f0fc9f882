"""Plans that ship with the package: a graph whose words leave the task open."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

from models.errors import NotFound


def names() -> list[str]:
    return sorted(
        one.name.removesuffix(".yaml")
        for one in resources.files(__package__).iterdir()
        if one.name.endswith(".yaml")
    )


def load(name: str) -> Any:
    """The template as data. Raises NotFound."""
    if name not in names():
        raise NotFound(f"There is no template '{name}'; there are {', '.join(names())}.")
    text = resources.files(__package__).joinpath(f"{name}.yaml").read_text("utf-8")
    return yaml.safe_load(text)["graph"]
