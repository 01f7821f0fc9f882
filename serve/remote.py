"""The judge and the router where they run, and the gateway's side of each."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from models.answerer import SystemClock
from models.call import Call
from models.errors import DeadlineExceeded, Unavailable
from models.workforce.answerer import ray_errors
from router.actor import Candidate, Decision, cheapest
from serve.fusion.judge import Case, Finding, ModelJudge
from serve.house import House
from serve.settings import Settings

#: How long a request waits for the router's word. Decisions take milliseconds.
ROUTER_S = 2.0


class JudgeReplica:
    """A judge with models of its own, so that judging scales and is limited by itself."""

    # Serve awaits a coroutine constructor; the type system does not know such a thing.
    async def __init__(self, settings: dict[str, Any], accounts: Any) -> None:  # type: ignore[misc]
        clock = SystemClock()
        self._house = House(Settings.model_validate(settings), accounts, clock)
        await self._house.open(lambda catalog, models: models)

    async def judge(self, case: Case, call: Call) -> Finding:
        return await ModelJudge(self._house.editions.current.models).judge(case, call)


class RemoteJudge:
    """The judge deployment as a `Judge`."""

    def __init__(self, handle: Any) -> None:
        self._judge = handle.judge

    async def judge(self, case: Case, call: Call) -> Finding:
        with ray_errors("the judge"):
            response = self._judge.remote(case, call)
            try:
                async with asyncio.timeout(call.remaining_s(time.time())):
                    finding: Finding = await response
                    return finding
            except BaseException:
                response.cancel()
                raise


class RemoteRouter:
    """The router deployment as a `Router`."""

    def __init__(self, handle: Any) -> None:
        self._decide = handle.decide

    async def decide(self, prompt: str, candidates: tuple[Candidate, ...]) -> Decision:
        response = self._decide.remote(prompt, candidates)
        try:
            with ray_errors("the router"):
                async with asyncio.timeout(ROUTER_S):
                    decision: Decision = await response
                    return decision
        except (DeadlineExceeded, Unavailable):
            # A router that is being replaced must not hold up what it only advises.
            response.cancel()
            return cheapest(candidates)
        except asyncio.CancelledError:
            response.cancel()
            raise
