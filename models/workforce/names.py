"""What Serve calls a hosted model. Imports no Ray: the command line names models too."""

from __future__ import annotations

import hashlib
import json
import re

from models.catalog import Catalog
from models.scaling import FIRST
from models.spec import FakeModelSpec, VllmModel


def deployment_name(model: str, place: str = FIRST) -> str:
    """Serve's name of this model's deployment in this place (`models.scaling.Place.key`). Slashes
    would break its URLs."""
    known_as = "Workforce:" + model.replace("/", "--")
    # No model's name has a tilde.
    return known_as if place == FIRST else f"{known_as}~{place.replace('/', '.')}"


def place_of(deployment: str) -> str:
    """The place of a deployment, by Serve's name of it."""
    _, _, place = deployment.rpartition("~")
    return place.replace(".", "/") if place != deployment else FIRST


#: Keys of a hosted model that its replicas never see: changing one replaces no replica.
_OUTSIDE = {
    *("price", "usd_per_hour", "image_tokens", "fallbacks", "tools", "images"),
    *("tool_calls", "structured", "family"),
}


def application_name(name: str, spec: VllmModel | FakeModelSpec) -> str:
    """Serve's name of the application that hosts this model as it is specified.

    Another specification is another application, so that a changed model can start beside the
    one that it replaces.
    """
    # Without defaults, so that a version of the program with more keys names it the same.
    seen = spec.model_dump(mode="json", exclude=_OUTSIDE, exclude_defaults=True)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "--", name)
    if plain != name:
        seen["name"] = name  # `a:b` and `a/b` look alike, and are two models
    digest = hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:8]
    return f"model-{plain}-{digest}"


def is_same_model(application: str, other: str) -> bool:
    """Whether both host a model of the same name, however it is specified."""
    return application.rpartition("-")[0] == other.rpartition("-")[0]


def off_spot(catalog: Catalog) -> dict[str, str]:
    """Ray's label selector for what must not run on a node that may be taken back: of each label
    that tells a spot market's nodes from those on demand, none of its values."""
    taken: dict[str, set[str]] = {}
    for spec in hosted(catalog).values():
        firm = [place.labels for place in spec.places if place.market is None]
        for place in spec.places:
            for name, value in place.labels.items() if place.market is not None else ():
                if all(labels.get(name) != value for labels in firm):
                    taken.setdefault(name, set()).add(value)
    return {
        name: f"!{values[0]}" if len(values) == 1 else f"!in({', '.join(values)})"
        for name, values in ((name, sorted(values)) for name, values in sorted(taken.items()))
    }


def hosted(catalog: Catalog) -> dict[str, VllmModel | FakeModelSpec]:
    """The models of this catalog that the cluster hosts."""
    return {
        name: spec
        for name, spec in catalog.models.items()
        if isinstance(spec, VllmModel | FakeModelSpec)
    }
