"""Serve's own request router with our order in it: driven without a cluster."""

from __future__ import annotations

import asyncio
import secrets
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from models.workforce.turns import TICKET, Target, Ticket

with warnings.catch_warnings():
    # Ray's own, of pydantic.
    warnings.simplefilter("ignore", DeprecationWarning)
    from ray.serve._private import build_app
    from ray.serve._private.common import (
        DeploymentHandleSource,
        DeploymentID,
        RequestMetadata,
    )
    from ray.serve._private.config import DeploymentConfig
    from ray.serve.exceptions import BackPressureError
    from ray.serve.request_router import PendingRequest

    from models.spec import FakeModelSpec
    from models.workforce.hosting import deployment, serve_options
    from models.workforce.routing import FairRouter

MODEL = DeploymentID("Workforce:own", "model-own")


def router(most: int = 100, target: Target | None = None) -> FairRouter:
    made = FairRouter(
        deployment_id=MODEL,
        handle_source=DeploymentHandleSource.REPLICA,
        self_node_id="n",
        prefer_local_node_routing=False,
        prefer_local_az_routing=False,
        self_availability_zone=None,
    )
    made.initialize_state(most=most, target=target and target._asdict())
    return made


def pending(ticket: Ticket | None, waited_s: float = 0.0) -> PendingRequest:
    """One that has waited for so long, but is here only now."""
    body: dict[str, Any] = {"messages": []}
    if ticket is not None:
        body[TICKET] = tuple(ticket._replace(came_s=time.time() - waited_s))
    name = secrets.token_hex(4)
    return PendingRequest([body], {}, RequestMetadata(name, name), time.time())


class Line:
    """Requests that wait in this router, which has no replica. Close it."""

    def __init__(self, routing: FairRouter) -> None:
        self.routing = routing
        self.tasks: list[asyncio.Task[Any]] = []

    async def join(self, *tickets: Ticket | None, waited_s: float = 0.0) -> None:
        for one in tickets:
            choice = self.routing._choose_replica_for_request(pending(one, waited_s))
            self.tasks.append(asyncio.create_task(choice))
        await asyncio.sleep(0)

    async def called(self) -> int:
        """Who gets a replica that has one place, by number."""
        before = {number for number, task in enumerate(self.tasks) if task.done()}
        self.routing._fulfill_next_pending_request("a replica")
        await asyncio.sleep(0)
        (number,) = (n for n, t in enumerate(self.tasks) if t.done() and n not in before)
        return number

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_people_come_before_a_batch_and_callers_take_turns() -> None:
    me, you, batch = Ticket("me"), Ticket("you"), Ticket("you", low=True)
    async with Line(router()) as line:
        await line.join(batch, batch, you, you, you, you, me, me)
        assert [await line.called() for _ in range(8)] == [2, 6, 3, 7, 4, 5, 0, 1]


async def test_who_can_be_in_time_comes_before_who_is_late_already() -> None:
    me = Ticket("me")
    async with Line(router(target=Target(ttft_s=2.0, longest_s=60.0))) as line:
        await line.join(me, waited_s=90.0)
        await line.join(me, me, waited_s=10.0)
        await line.join(me, me)
        assert [await line.called() for _ in range(5)] == [0, 3, 4, 1, 2]


async def test_one_that_moved_here_keeps_its_age() -> None:
    me = Ticket("me")
    async with Line(router(target=Target(ttft_s=2.0, longest_s=60.0))) as line:
        await line.join(me)
        await line.join(me, waited_s=1.0)
        await line.join(me, waited_s=70.0)
        assert [await line.called() for _ in range(3)] == [2, 1, 0]


async def test_without_a_target_the_oldest_comes_first() -> None:
    me = Ticket("me")
    async with Line(router()) as line:
        await line.join(me, me, waited_s=10.0)
        await line.join(me)
        assert [await line.called() for _ in range(3)] == [0, 1, 2]


async def test_the_wait_in_the_line_is_in_the_metric_that_the_page_names() -> None:
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text("utf-8")
    waits = list[float]()
    async with Line(router()) as line:
        histogram = line.routing.queue_wait_time_ms_histogram
        assert f"`ray_{histogram.info['name']}`" in page
        histogram.observe = lambda wait_ms, *_: waits.append(wait_ms)
        await line.join(Ticket("me"))
        await asyncio.sleep(0.01)
        assert waits == []
        await line.called()
    assert len(waits) == 1
    assert waits[0] >= 9


async def test_what_brings_no_ticket_waits_like_any_other() -> None:
    async with Line(router()) as line:
        await line.join(None, None)
        assert [await line.called() for _ in range(2)] == [0, 1]


async def test_who_was_sent_to_a_full_replica_keeps_its_turn() -> None:
    me, you = Ticket("me"), Ticket("you")
    async with Line(router()) as line:
        await line.join(me, you, you)
        assert await line.called() == 0
        again = line.routing._choose_replica_for_request(pending(me), is_retry=True)
        line.tasks.append(asyncio.create_task(again))
        await asyncio.sleep(0)
        assert [await line.called() for _ in range(2)] in ([3, 1], [1, 3])


async def test_who_has_filled_the_line_is_refused_and_another_is_not() -> None:
    me, you = Ticket("me"), Ticket("you")
    async with Line(router(most=3)) as line:
        await line.join(you, you, you)
        with pytest.raises(BackPressureError):
            await line.routing._choose_replica_for_request(pending(you))
        await line.join(me)
        assert not line.tasks[-1].done()


async def test_one_that_hangs_up_leaves_its_room() -> None:
    you = Ticket("you")
    async with Line(router(most=2)) as line:
        await line.join(you, you)
        line.tasks[0].cancel()
        await asyncio.sleep(0)
        await line.join(you)
        assert not line.tasks[-1].done()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_serve_takes_it_to_the_gateways_also_with_haproxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_app, "RAY_SERVE_ENABLE_HA_PROXY", True)
    spec = FakeModelSpec.model_validate({"engine": "fake", "max_queued": 7})
    built = build_app.build_app(deployment("own", spec), name="model-own")
    sent = built.deployments[0]._deployment_config.to_proto_bytes()
    come = DeploymentConfig.from_proto_bytes(sent).request_router_config
    assert come.get_request_router_class() is FairRouter
    assert come.request_router_kwargs == {"most": 7}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_promised_travels_to_the_gateways() -> None:
    scaling = {
        "node": {"usd_per_hour": 1.0, "startup_s": 120.0},
        "replica": {
            "prefill_tokens_per_s": 4000.0,
            "decode": {"step_base_s": 0.04, "step_per_sequence_s": 0.001, "max_batch": 20},
        },
        "targets": {"ttft_s": 1.5},
    }
    spec = FakeModelSpec.model_validate({"engine": "fake", "scaling": scaling})
    options = serve_options("own", spec, spec.places[0])
    sent = DeploymentConfig(request_router_config=options["request_router_config"]).to_proto_bytes()
    words = DeploymentConfig.from_proto_bytes(sent).request_router_config.request_router_kwargs
    assert Target(**words["target"]) == pytest.approx((1.5, 120.0, 1 / 4000, 0.06))
