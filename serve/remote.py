"""The judge and the router where they run, and the gateway's side of each."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.answerer import SystemClock
from models.call import Call
from models.errors import BadRequest, FusionError
from models.flagship.client import new_client
from models.tools.toolset import Toolset
from models.workforce.answerer import ray_errors
from router.encoder import load_encoder
from router.live import LiveRouter, Plan, Question, blind
from router.objective import NothingAffordable
from router.store import load_or_shipped
from serve.auto.gauges import RouterGauges
from serve.auto.mind import Mind, too_dear
from serve.auto.notebook import Notebook
from serve.fusion.judge import Case, Finding, ModelJudge
from serve.house import House
from serve.money.fees import TillFees
from serve.money.till import Till
from serve.settings import Settings
from serve.store import migrate
from serve.store.database import Database

#: How long a request waits for the router's word. Decisions take milliseconds.
ROUTER_S = 2.0

log = logging.getLogger(__name__)


class JudgeReplica:
    """A judge with models of its own, so that judging scales and is limited by itself."""

    # Serve awaits a coroutine constructor; the type system does not know such a thing.
    async def __init__(self, settings: dict[str, Any], accounts: Any) -> None:  # type: ignore[misc]
        clock = SystemClock()
        self._house = House(Settings.model_validate(settings), accounts, clock)
        self._client = new_client()
        self._judges: dict[int, ModelJudge] = {}
        await self._house.open(lambda catalog, models: models)

    async def judge(self, case: Case, call: Call) -> Finding:
        return await self._judge().judge(case, call)

    def _judge(self) -> ModelJudge:
        """The judge of the edition in force."""
        edition = self._house.editions.current
        if edition.version not in self._judges:
            fees = TillFees(self._house.till, self._house.clock)
            boxes = Toolset(edition.catalog.tools, self._client, fees=fees).open
            self._judges = {edition.version: ModelJudge(edition.models, boxes)}
        return self._judges[edition.version]


class RemoteJudge:
    """The judge deployment as a `Judge`. What it spends for a request with a cost cap counts
    in this process's `till`."""

    def __init__(self, handle: Any, till: Till) -> None:
        self._judge = handle.judge
        self._till = till

    async def judge(self, case: Case, call: Call) -> Finding:
        if (cap := call.cost_cap_nano_usd) is None:
            return await self._asked(case, call)
        left = self._till.left(call, cap)
        finding = await self._asked(case, replace(call, cost_cap_nano_usd=left))
        cost = sum(stage.nano_usd or 0 for stage in finding.stages)
        self._till.spent_elsewhere(call, cost)
        return finding

    async def _asked(self, case: Case, call: Call) -> Finding:
        with ray_errors("the judge"):
            response = self._judge.remote(case, call)
            try:
                async with asyncio.timeout(call.remaining_s(time.time())):
                    finding: Finding = await response
                    return finding
            except BaseException:
                response.cancel()
                raise


class RouterReplica:
    """One replica of the router, as Serve runs it."""

    # Serve awaits a coroutine constructor; the type system does not know such a thing.
    async def __init__(self, settings: dict[str, Any]) -> None:  # type: ignore[misc]
        clock, known = SystemClock(), Settings.model_validate(settings)
        weights = known.catalog.router.weights
        loaded = await asyncio.to_thread(load_or_shipped, Path(weights) if weights else None)
        live = LiveRouter(loaded.model, load_encoder())
        database = Database(known.store)
        await migrate.upgrade(database)
        notebook = Notebook(database, clock)
        self._mind = Mind(live, notebook, clock, str(loaded.path), loaded.refused)
        await self._mind.start()
        self._gauges = RouterGauges()

    async def decide(self, question: Question) -> Plan:
        return await self._mind.decide(question)

    async def status(self) -> dict[str, Any]:
        return self._mind.status()

    async def state(self) -> dict[str, Any]:
        return self._mind.state()

    async def replace(self, state: dict[str, Any] | None) -> None:
        await self._mind.replace(state)

    async def check_health(self) -> None:
        # Serve asks every few seconds: as good a beat as any to show the figures.
        self._gauges.show(self._mind.status())


class RemoteRouter:
    """The router deployment as a `Router`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def decide(self, question: Question) -> Plan:
        try:
            plan: Plan = await self._ask(self._handle.decide.remote(question))
            return plan
        except BadRequest:
            raise
        except FusionError as error:
            # A router that is being replaced, is busy or broken must not hold up what it only
            # advises.
            log.warning("the router could not be asked: %s", error)
        try:
            return blind(question)
        except NothingAffordable as error:
            raise too_dear(error) from None

    async def status(self) -> dict[str, Any]:
        told: dict[str, Any] = await self._ask(self._handle.status.remote())
        return told

    async def state(self) -> dict[str, Any]:
        told: dict[str, Any] = await self._ask(self._handle.state.remote())
        return told

    async def replace(self, state: dict[str, Any] | None) -> None:
        await self._ask(self._handle.replace.remote(state))

    async def _ask(self, response: Any) -> Any:
        try:
            with ray_errors("the router"):
                async with asyncio.timeout(ROUTER_S):
                    return await response
        except BaseException:
            response.cancel()
            raise
