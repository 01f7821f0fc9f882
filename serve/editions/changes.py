"""What differs between two catalogs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from models.catalog import Catalog

#: What a process reads once, when it starts.
AT_START = (
    "server.host",
    "server.port",
    "server.gateways",
    "server.judges.min",
    "server.judges.max",
    "server.nodes",
    "server.store",
    "router.weights",
    "fleet.usd_per_hour",
    "fleet.usd_per_day",
)


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs. None stands for absent."""

    path: str
    before: Any
    after: Any

    @property
    def waits_for_start(self) -> bool:
        """Whether it takes effect only when the cluster is started anew."""
        return self.path in AT_START

    def __str__(self) -> str:
        later = "  (with the next start)" if self.waits_for_start else ""
        return f"{self.path}: {_shown(self.before)} → {_shown(self.after)}{later}"


def changes(before: Catalog, after: Catalog) -> list[Change]:
    """Every key that differs, by its path. Lists are compared whole."""
    return list(_differences("", before.model_dump(mode="json"), after.model_dump(mode="json")))


def _differences(path: str, before: Any, after: Any) -> Iterator[Change]:
    # A model, panel or alias that comes or goes is one change, not one for each of its keys.
    if isinstance(before, dict) and isinstance(after, dict):
        for key in (*before, *(key for key in after if key not in before)):
            inner = f"{path}.{key}" if path else str(key)
            yield from _differences(inner, before.get(key), after.get(key))
    elif before != after:
        yield Change(path, before, after)


def _shown(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case {"engine": engine, "context": context}:
            return f"a model ({engine}, context {context})"
        case {"members": members}:
            return f"a panel of {len(members)}"
        case _:
            text = str(value)
            return text if len(text) <= 60 else f"{text[:57]}..."
