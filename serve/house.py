"""What every process of the application has: the store, the secret, the till, the edition in
force."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

from models.answerer import Answerer, Clock
from models.catalog import Catalog
from serve.access import secret
from serve.access.keys import cache_salt
from serve.control.control import Control
from serve.control.entrance import Entrance
from serve.control.idempotency import Idempotent
from serve.control.policed import Policed, StandsIn
from serve.control.policy import catalog as policies
from serve.control.sessions.remembering import Remembering
from serve.control.sessions.store import Sessions
from serve.editions.edition import Edition, Editions
from serve.editions.history import History
from serve.gauges import RayAlarm
from serve.money.replicas import spent_today
from serve.money.till import new_till
from serve.parts import Parts
from serve.settings import Settings
from serve.store import migrate
from serve.store.database import Database

#: Makes what answers for every name, of what answers for models.
Wiring = Callable[[Catalog, Answerer], Answerer]


class House:
    """`accounts` is Serve's handle of the owner of all provider accounts."""

    editions: Editions

    def __init__(self, settings: Settings, accounts: Any, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.secret = secret.read(settings.folder)
        self.database = Database(settings.store)
        self.history = History(self.database, clock)
        self.till = new_till(
            self.database, lambda: self.editions.current.catalog, clock, RayAlarm()
        )
        self.control = Control(self.database, clock)
        self.sessions = Sessions(self.database, clock)
        self._parts = Parts(
            accounts,
            clock,
            self.till,
            partial(cache_salt, self.secret),
            settings.fleet,
            partial(spent_today, self.database, clock),
            settings.catalog.server.gateways,
        )
        self.count = self._parts.count

    async def open(self, wiring: Wiring) -> None:
        """Bring the store to this version's schema and take the edition in force."""

        def make(catalog: Catalog, version: int) -> Edition:
            rules = policies.rules(catalog.policies)

            def stand_in(name: str, model: Answerer) -> Answerer:
                return StandsIn(model, name, catalog, rules, self.control) if rules else model

            models: Answerer = self._parts.models(catalog, stand_in)
            if rules:  # nobody pays for the questions of rules that nobody made
                models = Policed(models, catalog, rules, self.control)
            pipeline: Answerer = Remembering(
                wiring(catalog, models), catalog, models, self.sessions
            )
            if rules:
                pipeline = Entrance(pipeline, catalog, rules, self.control)
            pipeline = Idempotent(pipeline, self.database, self.clock)
            return Edition(catalog, models, pipeline, version)

        await migrate.upgrade(self.database)
        await self.till.open()
        self.editions = Editions(self.history, make, self._parts.follow)
        await self.editions.start(self.settings.catalog)
        settle()

    async def health(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and what is up, as a health page says it."""
        return await self._parts.health()


def settle() -> None:
    """Take what this process has after its start out of the garbage collector's sight: it stays
    to the end, and to look through all of it holds every request for a tenth of a second."""
    gc.collect()
    gc.freeze()
    # A request leaves hundreds of objects, nearly none of them in a cycle.
    gc.set_threshold(10_000, 20, 20)
