"""Puts the parts of one replica together: models behind their wrappers, and their health."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from ray import serve as ray_serve

from models.answerer import Answerer, Clock
from models.catalog import ApiModel, Catalog, ModelSpec
from models.flagship import account
from models.flagship.account import AccountHandle, AccountLimit
from models.flagship.answerer import Flagship
from models.flagship.client import new_client
from models.workforce.answerer import Workforce
from models.wrappers.breaker import Breaker, BreakerState
from models.wrappers.fallback import Fallback
from models.wrappers.fit import Fit
from models.wrappers.limit import Limit
from models.wrappers.retry import Retry
from serve.money.charge import Charge, Tariff
from serve.money.till import Payer
from serve.pipeline import Models

#: Serve's handles: under "workforce" those of the models by name, under "accounts" their owner's.
Handles = Mapping[str, Any]
_HEALTH_KEPT_S = 1.0


def models(catalog: Catalog, handles: Handles, clock: Clock, till: Payer) -> Models:
    """Every model of the catalog behind its wrappers, in the order of `models.wrappers`. All
    their calls are paid from `till`.

    Raises MissingKey where a flagship's key is not in this process's environment.
    """
    client = new_client()
    limits = {
        name: AccountLimit(name, AccountHandle(handles["accounts"], name, capacity))
        for name, capacity in account.capacities(catalog.models).items()
    }

    def one(name: str, spec: ModelSpec) -> Answerer:
        if isinstance(spec, ApiModel):
            inner: Answerer = Flagship(name, spec, client)
            inner = Charge(inner, _tariff(name, spec), till, clock)
            inner = Limit(inner, limits[account.account_name(spec)])
            inner = Breaker(inner, BreakerState(name=name))
        else:
            # No limit and no breaker: Serve bounds a hosted model's queue and goes round its
            # dead replicas by itself.
            inner = Workforce(name, handles["workforce"][name], clock)
            inner = Charge(inner, _tariff(name, spec), till, clock)
        return Fit(Retry(inner, clock=clock), name, spec)

    alone = {name: one(name, spec) for name, spec in catalog.models.items()}

    def with_fallbacks(name: str, spec: ModelSpec) -> Answerer:
        chain = dict.fromkeys((name, *map(catalog.model_behind, spec.fallbacks)))
        return Fallback({model: alone[model] for model in chain}) if len(chain) > 1 else alone[name]

    answerers = {name: with_fallbacks(name, spec) for name, spec in catalog.models.items()}
    return Models(catalog, answerers)


def _tariff(name: str, spec: ModelSpec) -> Tariff:
    return Tariff(name, spec.tier, spec.price, spec.max_output, spec.image_tokens)


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
        name = ray_serve.get_replica_context().app_name
        application = ray_serve.status().applications[name]
        found = {
            name: (status.status.value, status.replica_states.get("RUNNING", 0))
            for name, status in application.deployments.items()
        }
        _seen = (time.monotonic(), found)
    return _seen[1]
