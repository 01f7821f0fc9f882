"""What one process of the application keeps while catalogs come and go, and what it builds of
each: models behind their wrappers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ray import serve as ray_serve

from cluster.scaling.policy import settings_from
from models.answerer import Answerer, Clock
from models.catalog import Catalog
from models.flagship.account import AccountHandle
from models.flagship.answerer import Flagship
from models.flagship.custom import Custom
from models.flagship.registry import Registry
from models.messages import Request
from models.scaling import FIRST
from models.scaling import Fleet as Limits
from models.spec import ApiModel, FakeModelSpec, FlagshipSpec, ModelSpec, PythonModel, VllmModel
from models.workforce import hosting
from models.workforce.answerer import Salt, Workforce
from models.workforce.names import application_name, deployment_name, hosted, place_of
from models.workforce.pace import Pace
from models.workforce.turns import target
from models.wrappers.breaker import Breaker
from models.wrappers.fallback import Fallback
from models.wrappers.fit import Fit
from models.wrappers.limit import Limit
from models.wrappers.repair import Repair, habits_of
from models.wrappers.retry import Retry
from serve.controller import Controller
from serve.fleet import Count, Fleet, Site, SpentToday, Veto
from serve.gauges import RayOverflows, RayRepairs
from serve.money.charge import Charge, Tariff
from serve.money.till import Payer
from serve.overflow import Other, Overflowing
from serve.pipeline import Models
from serve.places import Placed

#: What stands around the model of this name where it answers in another one's place.
StandIn = Callable[[str, Answerer], Answerer]


class Parts:
    """`accounts` is Serve's handle of the owner of all provider accounts. All calls are paid from
    `till`. `salt` keeps projects apart in the engines' caches. `limits` are what all replicas
    together may cost, `spent_today` what those of models with a `scaling` have cost today.
    `gateways` share the replicas: as many as were started, whatever a newer catalog says.

    What is known of providers lives here and not with the models, because a change of an alias
    must not forget that one is down.
    """

    def __init__(
        self,
        accounts: Any,
        clock: Clock,
        till: Payer,
        salt: Salt,
        limits: Limits,
        spent_today: SpentToday,
        gateways: int,
    ) -> None:
        self._clock = clock
        self._gateways = gateways
        self._till = till
        self._salt = salt
        self._registry = Registry(lambda name: AccountHandle(accounts, name), clock)
        self._hosted: dict[str, Workforce | Placed] = {}
        self._catalog: Catalog | None = None
        self._repairs = RayRepairs()
        self._controller = Controller(_applications)
        self._fleet = Fleet(clock, _counts, limits, spent_today, self._drained_s)
        self._overflows = RayOverflows()

    def models(self, catalog: Catalog, stand_in: StandIn) -> Models:
        """Every model of the catalog behind its wrappers, in the order of `models.wrappers`.

        Raises MissingKey where a flagship's key is not in this process's environment.
        """
        self._registry.meet(catalog.models)
        self._catalog = catalog
        alone = {name: self._one(name, spec) for name, spec in catalog.models.items()}
        instead = {name: stand_in(name, one) for name, one in alone.items()}

        def with_fallbacks(name: str, spec: ModelSpec) -> Answerer:
            others = {other: instead[other] for other in map(catalog.model_behind, spec.fallbacks)}
            others.pop(name, None)
            return Fallback({name: alone[name], **others}) if others else alone[name]

        answerers = {name: with_fallbacks(name, spec) for name, spec in catalog.models.items()}
        for name, spec in hosted(catalog).items():
            if spec.scaling is not None:
                answerers[name] = self._overflowing(name, spec, catalog, answerers[name], instead)
        return Models(catalog, answerers)

    def follow(self, catalog: Catalog) -> None:
        """This catalog is in force now: its limits are, and what it has no more is forgotten."""
        self._registry.follow(catalog.models)

    def _overflowing(
        self,
        name: str,
        spec: VllmModel | FakeModelSpec,
        catalog: Catalog,
        inner: Answerer,
        instead: Mapping[str, Answerer],
    ) -> Answerer:
        assert spec.scaling is not None
        others = dict.fromkeys(map(catalog.model_behind, spec.scaling.spill))
        return Overflowing(
            name,
            inner,
            self._workforce(name, spec),
            spec.scaling,
            Site(self._fleet, name, catalog),
            self._overflows,
            max_ongoing=spec.max_ongoing,
            gateways=self._gateways,
            others=tuple(Other(o, instead[o], catalog.models[o].price) for o in others),
        )

    def _one(self, name: str, spec: ModelSpec) -> Answerer:
        clock = self._clock
        inner: Answerer
        if isinstance(spec, FlagshipSpec):
            inner = Charge(self._flagship(name, spec), _tariff(name, spec), self._till, clock)
            inner = Limit(inner, self._registry.limit(name, spec))
            inner = Breaker(inner, self._registry.breaker(name, spec), clock)
        else:
            # No limit and no breaker: Serve bounds a hosted model's queue and goes round its
            # dead replicas by itself.
            hosted = self._workforce(name, spec)
            inner = Charge(hosted, _tariff(name, spec), self._till, clock, count=hosted.count)
        inner = Repair(Retry(inner, clock=clock), name, habits_of(name, spec), self._repairs)
        return Fit(inner, name, spec)

    def _flagship(self, name: str, spec: FlagshipSpec) -> Answerer:
        if isinstance(spec, PythonModel):
            return Custom(name, spec, self._clock)
        assert isinstance(spec, ApiModel)
        registry = self._registry
        heed = registry.limit(name, spec).heed
        return Flagship(name, spec, registry.connections, clock=self._clock, heed=heed)

    async def count(self, catalog: Catalog, request: Request) -> int | None:
        """The tokens of what the request's model would read, by its own tokenizer; None where it
        has none here, or sleeps: Serve would wake it, whatever the budget says."""
        spec = catalog.models[request.model]
        if isinstance(spec, FlagshipSpec):
            return None
        applications, _ = await self._controller.applications()
        mine = (applications or {}).get(application_name(request.model, spec))
        if mine is None or not any(_count(one).running for one in mine.deployments.values()):
            return None
        return await self._workforce(request.model, spec).count(request)

    def _drained_s(self, application: str) -> float:
        known = self._hosted.get(application)
        return 0.0 if known is None else known.drained_s()

    def _workforce(self, name: str, spec: VllmModel | FakeModelSpec) -> Workforce | Placed:
        # By application: a change of the catalog that replaces no replica needs no new handle.
        known_as = application_name(name, spec)
        if known_as not in self._hosted:
            self._hosted[known_as] = self._deployed(name, spec)
        return self._hosted[known_as]

    def _deployed(self, name: str, spec: VllmModel | FakeModelSpec) -> Workforce | Placed:
        pace = Pace(None if spec.scaling is None else target(spec.scaling))
        places = {
            place: Workforce(name, handle, self._clock, salt=self._salt, pace=pace)
            for place, handle in hosting.handles(name, spec).items()
        }
        if spec.scaling is None or len(places) == 1:
            return places[FIRST]
        settings = spec.scaling.settings(name, spec.replicas.min, spec.replicas.max, Limits())
        return Placed(
            places,
            settings_from(settings),
            partial(self._fleet.counts, application_name(name, spec)),
            partial(self._veto, name),
            self._clock,
            room_of_one=spec.max_ongoing / self._gateways,
        )

    async def _veto(self, name: str, place: str) -> Veto | None:
        # A request may end on a catalog that is no more in force.
        catalog = self._catalog
        known = catalog is not None and name in hosted(catalog)
        return await self._fleet.veto(name, catalog, place) if catalog and known else None

    async def health(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and what is up. 503 only when no model can answer: a gateway that works
        must not be taken out of service because one model of many is down. Flagships are shown
        as this process has found them."""
        applications, now = await self._controller.applications()
        deployments = None if applications is None else _deployments(applications)
        return summary(deployments, self._registry.standing(), now=now)


def _tariff(name: str, spec: ModelSpec) -> Tariff:
    return Tariff(name, spec.tier, spec.price, spec.max_output, spec.image_tokens)


def summary(
    deployments: Mapping[str, tuple[str, int]] | None,
    flagships: Mapping[str, Mapping[str, Any]],
    *,
    now: bool = True,
) -> tuple[int, dict[str, Any]]:
    """`deployments` are (status, running replicas) by name, as the controller says `now` or said
    when it last answered (None: never); `flagships` how each stands."""
    told = {
        name: {"status": status.lower(), "replicas": replicas}
        for name, (status, replicas) in (deployments or {}).items()
    }
    seen: dict[str, Any] = {"parts": told, "flagships": flagships}
    if not now:
        seen["controller"] = "does not answer"
    # A model that has gone to zero by its own rule is healthy: it starts for who asks.
    hosts = [
        part["replicas"] or part["status"] == "healthy"
        for name, part in told.items()
        if name.startswith("Workforce:")
    ]
    if deployments is None or (hosts and not any(hosts)):
        return 503, {"status": "down", **seen}
    healthy = now and all(part["status"] == "healthy" for part in told.values())
    well = healthy and all(model["status"] == "ok" for model in flagships.values())
    status = "ok" if well else "degraded"
    return 200, {"status": status, **seen}


async def replicas(catalog: Catalog) -> dict[str, dict[str, int]]:
    """How many replicas of each hosted model run now, by place."""
    deployments = _deployments(await asyncio.to_thread(_applications))
    return {
        name: {
            place.key: deployments.get(deployment_name(name, place.key), ("", 0))[1]
            for place in spec.places
        }
        for name, spec in hosted(catalog).items()
    }


def _applications() -> Mapping[str, Any]:
    """Every application as Serve's controller shows it. Takes milliseconds, or as long as a
    controller hangs: for a thread."""
    found: Mapping[str, Any] = ray_serve.status().applications
    return found


def _deployments(applications: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    found: dict[str, tuple[str, int]] = {}
    for application in applications.values():
        if application.status.value == "DELETING":
            continue
        for name, status in application.deployments.items():
            running = _serving(status.replica_states)
            # A model that is being replaced stands here twice; one that runs is enough.
            if name not in found or running:
                found[name] = (status.status.value, running)
    return found


async def not_running(catalog: Catalog) -> list[str]:
    """Hosted models of this catalog whose application does not run as they are specified."""
    applications = await asyncio.to_thread(_applications)
    return [
        name
        for name, spec in hosted(catalog).items()
        if (found := applications.get(application_name(name, spec))) is None
        or found.status.value != "RUNNING"
    ]


def _counts() -> dict[str, dict[str, Count]]:
    """Replicas of every application by place, for `Fleet`."""
    return {
        name: {
            place_of(deployment): _count(status)
            for deployment, status in application.deployments.items()
        }
        for name, application in _applications().items()
    }


def _count(deployment: Any) -> Count:
    states = deployment.replica_states
    return Count(_serving(states), sum(states.values()) - states.get("STOPPING", 0))


def _serving(states: Mapping[str, int]) -> int:
    """Replicas that answer: also one whose node is taken back does until another takes over."""
    return states.get("RUNNING", 0) + states.get("PENDING_MIGRATION", 0)
