"""Puts the parts of one replica together: models behind their wrappers, and their health."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from ray import serve as ray_serve

from models.answerer import Answerer, Clock
from models.catalog import Catalog, OpenAIModel
from models.workforce.answerer import Workforce
from serve.money.meter import Meter
from serve.pipeline import Models

#: Name of the Ray Serve application.
APPLICATION = "fusion"
_HEALTH_KEPT_S = 1.0


def models(catalog: Catalog, handles: Mapping[str, Any], clock: Clock) -> Models:
    """Every model of the catalog behind its wrappers. `handles` are Serve's, by model name."""
    answerers: dict[str, Answerer] = {}
    for name, spec in catalog.models.items():
        if isinstance(spec, OpenAIModel):
            continue
        answerers[name] = Meter(Workforce(name, handles[name], clock), spec.price, clock)
    return Models(catalog, answerers)


async def health() -> tuple[int, dict[str, Any]]:
    """HTTP status and what is up. 503 only when no model can answer: a gateway that works
    must not be taken out of service because one model of many is down."""
    return summary(await asyncio.to_thread(_deployments))


def summary(deployments: Mapping[str, tuple[str, int]]) -> tuple[int, dict[str, Any]]:
    """`deployments` are (status, running replicas) by name."""
    told = {
        name: {"status": status.lower(), "replicas": replicas}
        for name, (status, replicas) in deployments.items()
    }
    hosted = [told[name]["replicas"] for name in told if name.startswith("Workforce:")]
    if hosted and not any(hosted):
        return 503, {"status": "down", "parts": told}
    healthy = all(part["status"] == "healthy" for part in told.values())
    return 200, {"status": "ok" if healthy else "degraded", "parts": told}


_seen: tuple[float, dict[str, tuple[str, int]]] = (0.0, {})


def _deployments() -> dict[str, tuple[str, int]]:
    global _seen
    if time.monotonic() - _seen[0] > _HEALTH_KEPT_S:
        application = ray_serve.status().applications[APPLICATION]
        found = {
            name: (status.status.value, status.replica_states.get("RUNNING", 0))
            for name, status in application.deployments.items()
        }
        _seen = (time.monotonic(), found)
    return _seen[1]
