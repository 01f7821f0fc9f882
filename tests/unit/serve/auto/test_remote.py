"""The router deployment from the gateway's side: whatever is wrong with it, there is a choice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from models.errors import (
    BadRequest,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    Unavailable,
    UpstreamError,
)
from router.candidate import Candidate
from router.live import Plan, Question
from router.objective import Objective

# Ray's modules use what their libraries call old.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CANDIDATES = (Candidate("small", cost=0.0001), Candidate("large", cost=0.02))


class Broken:
    """A handle each of whose calls fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @property
    def decide(self) -> Broken:
        return self

    def remote(self, question: Question) -> asyncio.Future[Any]:
        response: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        response.set_exception(self._error)
        return response


async def decided(error: Exception, question: Question) -> Plan:
    from serve.remote import RemoteRouter

    return await RemoteRouter(Broken(error)).decide(question)


@pytest.mark.parametrize(
    "error", [each("broken") for each in (DeadlineExceeded, Overloaded, Unavailable, UpstreamError)]
)
async def test_a_router_that_cannot_decide_is_replaced_by_price(error: FusionError) -> None:
    plan = await decided(error, Question("Why?", CANDIDATES))
    assert "could not be asked" in plan.decision.reason


async def test_what_is_wrong_with_the_request_is_told() -> None:
    with pytest.raises(BadRequest, match="too tight"):
        await decided(BadRequest("too tight"), Question("Why?", CANDIDATES))


async def test_without_a_router_a_ceiling_that_leaves_nothing_is_told_alike() -> None:
    tight = Question("Why?", CANDIDATES, Objective(ceiling=1e-9))
    with pytest.raises(BadRequest, match="No model is cheap enough") as raised:
        await decided(Unavailable("gone"), tight)
    assert raised.value.param == "fusion.cost_cap_usd"
