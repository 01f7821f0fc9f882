"""What one process of the application keeps while catalogs come and go, and what it builds of
each: models behind their wrappers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from ray import serve as ray_serve

from models.answerer import Answerer, Clock
from models.catalog import ApiModel, Catalog, FakeModelSpec, ModelSpec, VllmModel
from models.flagship import account
from models.flagship.account import AccountHandle, AccountLimit
from models.flagship.answerer import Flagship
from models.flagship.client import new_client
from models.messages import Request
from models.workforce import hosting
from models.workforce.answerer import Salt, Workforce
from models.workforce.names import application_name, hosted
from models.wrappers.breaker import Breaker, BreakerState
from models.wrappers.fallback import Fallback
from models.wrappers.fit import Fit
from models.wrappers.limit import Limit
from models.wrappers.retry import Retry
from serve.money.charge import Charge, Tariff
from serve.money.till import Payer
from serve.pipeline import Models

_HEALTH_KEPT_S = 1.0


class Parts:
    """`accounts` is Serve's handle of the owner of all provider accounts. All calls are paid from
    `till`. `salt` keeps projects apart in the engines' caches.

    Connections, breakers and permits live here, because a change of an alias must not forget
    that a provider is down.
    """

    def __init__(self, accounts: Any, clock: Clock, till: Payer, salt: Salt) -> None:
        self._accounts = accounts
        self._clock = clock
        self._till = till
        self._salt = salt
        self._client = new_client()
        self._limits: dict[tuple[str, int], AccountLimit] = {}
        self._breakers: dict[tuple[str, str], BreakerState] = {}
        self._hosted: dict[str, Workforce] = {}

    def models(self, catalog: Catalog) -> Models:
        """Every model of the catalog behind its wrappers, in the order of `models.wrappers`.

        Raises MissingKey where a flagship's key is not in this process's environment.
        """
        capacities = account.capacities(catalog.models)
        alone = {name: self._one(name, spec, capacities) for name, spec in catalog.models.items()}

        def with_fallbacks(name: str, spec: ModelSpec) -> Answerer:
            chain = dict.fromkeys((name, *map(catalog.model_behind, spec.fallbacks)))
            if len(chain) == 1:
                return alone[name]
            return Fallback({model: alone[model] for model in chain})

        answerers = {name: with_fallbacks(name, spec) for name, spec in catalog.models.items()}
        return Models(catalog, answerers)

    def _one(self, name: str, spec: ModelSpec, capacities: Mapping[str, int]) -> Answerer:
        clock = self._clock
        if isinstance(spec, ApiModel):
            inner: Answerer = Flagship(name, spec, self._client)
            inner = Charge(inner, _tariff(name, spec), self._till, clock)
            owner = account.account_name(spec)
            inner = Limit(inner, self._limit(owner, capacities[owner]))
            # An entry that changed is another model: what was held against it is forgotten.
            known_as = (name, spec.model_dump_json())
            inner = Breaker(inner, self._breakers.setdefault(known_as, BreakerState(name=name)))
        else:
            # No limit and no breaker: Serve bounds a hosted model's queue and goes round its
            # dead replicas by itself.
            inner = self._workforce(name, spec)
            inner = Charge(inner, _tariff(name, spec), self._till, clock)
        return Fit(Retry(inner, clock=clock), name, spec)

    async def count(self, catalog: Catalog, request: Request) -> int | None:
        """The tokens of what the request's model would read, by its own tokenizer; None where it
        has none here."""
        spec = catalog.models[request.model]
        if isinstance(spec, ApiModel):
            return None
        return await self._workforce(request.model, spec).count(request)

    def _workforce(self, name: str, spec: VllmModel | FakeModelSpec) -> Workforce:
        # By application: a change of the catalog that replaces no replica needs no new handle.
        known_as = application_name(name, spec)
        if known_as not in self._hosted:
            handle = hosting.handle(name, spec)
            self._hosted[known_as] = Workforce(name, handle, self._clock, salt=self._salt)
        return self._hosted[known_as]

    def _limit(self, owner: str, capacity: int) -> AccountLimit:
        if (owner, capacity) not in self._limits:
            handle = AccountHandle(self._accounts, owner, capacity)
            self._limits[owner, capacity] = AccountLimit(owner, handle)
        return self._limits[owner, capacity]


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
    places = [told[name]["replicas"] for name in told if name.startswith("Workforce:")]
    if places and not any(places):
        return 503, {"status": "down", "parts": told}
    healthy = all(part["status"] == "healthy" for part in told.values())
    return 200, {"status": "ok" if healthy else "degraded", "parts": told}


_seen: tuple[float, dict[str, tuple[str, int]]] = (0.0, {})


def _deployments() -> dict[str, tuple[str, int]]:
    global _seen
    if time.monotonic() - _seen[0] > _HEALTH_KEPT_S:
        found = {}
        for application in ray_serve.status().applications.values():
            if application.status.value == "DELETING":
                continue
            for name, status in application.deployments.items():
                running = status.replica_states.get("RUNNING", 0)
                # A model that is being replaced stands here twice; one that runs is enough.
                if name not in found or running:
                    found[name] = (status.status.value, running)
        _seen = (time.monotonic(), found)
    return _seen[1]


async def not_running(catalog: Catalog) -> list[str]:
    """Hosted models of this catalog whose application does not run as they are specified."""
    applications = (await asyncio.to_thread(ray_serve.status)).applications
    return [
        name
        for name, spec in hosted(catalog).items()
        if (found := applications.get(application_name(name, spec))) is None
        or found.status.value != "RUNNING"
    ]
