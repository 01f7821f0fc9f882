"""The judge and the router where they run, and the gateway's side of each."""

from __future__ import annotations

import asyncio
from typing import Any

from models.answerer import SystemClock
from models.call import Call
from models.catalog import Catalog
from models.workforce.answerer import ray_errors
from router.actor import Candidate, Decision
from serve import parts
from serve.fusion.judge import Case, Finding, ModelJudge


class JudgeReplica:
    """A judge with models of its own, so that judging scales and is limited by itself."""

    def __init__(self, catalog: dict[str, Any], handles: parts.Handles) -> None:
        known = Catalog.model_validate(catalog)
        self._judge = ModelJudge(parts.models(known, handles, SystemClock()))

    async def judge(self, case: Case, call: Call) -> Finding:
        return await self._judge.judge(case, call)


class RemoteJudge:
    """The judge deployment as a `Judge`."""

    def __init__(self, handle: Any) -> None:
        self._judge = handle.judge

    async def judge(self, case: Case, call: Call) -> Finding:
        with ray_errors("the judge"):
            response = self._judge.remote(case, call)
            try:
                finding: Finding = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            return finding


class RemoteRouter:
    """The router deployment as a `Router`."""

    def __init__(self, handle: Any) -> None:
        self._decide = handle.decide

    async def decide(self, prompt: str, candidates: tuple[Candidate, ...]) -> Decision:
        with ray_errors("the router"):
            decision: Decision = await self._decide.remote(prompt, candidates)
            return decision
