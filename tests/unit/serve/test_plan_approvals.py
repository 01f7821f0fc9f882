"""Plans that a person must allow on the way: parked with what is done, and gone on with once.

The whole pipeline of a gateway on a real store; only the models are fakes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from housed import Housed, housed
from starlette.requests import HTTPConnection

from models.answerer import SystemClock
from models.call import Call
from models.catalog import PLAN
from models.errors import ApprovalNeeded, Conflict
from models.messages import Completion, Done, PlanOptions, Progress, Request, user
from models.prices import NANO_PER_USD
from serve.access.caller import Caller
from serve.control.approvals import Decision
from serve.control.policy.values import Add
from serve.gateway.rooms.approvals import ApprovalsRoom
from serve.gateway.rooms.plans import PlansRoom
from serve.gateway.site import site
from serve.plans import record

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

#: A dollar a token of output, nothing for what is read.
PRICE = {"input": 0, "output": 1_000_000}
CATALOG: dict[str, Any] = {
    "models": {
        "m": {"engine": "openai", "price": PRICE, "max_output": 1},
        "brain": {"engine": "openai", "price": PRICE, "max_output": 1},
    },
    "panels": {"pair": {"members": ["m", "m"]}},
    "roles": {"judge": "brain"},
    # Each answer is one word, so a dollar.
    "policies": {"budget": {"kind": "spend", "limit_usd": 2, "scope": "request"}},
}
ROW: dict[str, Any] = {
    "subtasks": [
        {"id": f"s{n}", "kind": "write", "task": f"do {n}", "model": "m", "needs": needs}
        for n, needs in enumerate(([], ["s0"], ["s1"]))
    ]
}
YES = Decision(approve=True, by="key", origin="127.0.0.1", ceiling=100.0)


def asked(**options: Any) -> Request:
    return Request(PLAN, (user("Build it."),), plan=PlanOptions(**options or {"graph": ROW}))


@pytest.fixture
async def open_(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def made(**replies: Any) -> Housed:
            said = {"m": "part", "brain": "answer"} | replies
            return await stack.enter_async_context(housed(tmp_path, CATALOG, monkeypatch, **said))

        yield made


async def parked(house: Housed) -> dict[str, Any]:
    """The one approval that a plan waits for."""
    with pytest.raises(ApprovalNeeded) as told:
        await house.pipeline.complete(asked(), Call())
    (waiting,) = await house.house.control.approvals.newest(None, "pending")
    assert waiting["id"] in told.value.message
    assert waiting["plan"] in told.value.message
    return waiting


async def test_a_plan_that_must_ask_keeps_what_is_done_and_goes_on_once(open_: Any) -> None:
    house = await open_()
    waiting = await parked(house)
    kept = await house.plans.find(waiting["plan"], "default")
    assert (kept.status, [one.subtask for one in kept.done]) == ("paused", ["s0", "s1"])
    assert kept.told is not None
    assert "A person must allow it" in kept.told["error"]

    house = await open_()  # the gateway died and came back
    approvals = house.house.control.approvals
    await approvals.decide(waiting["id"], YES, None, tell=False)
    runs = await asyncio.gather(
        *(house.house.control.parking.run_one(house.edition) for _ in range(3))
    )
    assert runs.count(True) == 1
    seen = await approvals.read(waiting["id"], None)
    assert (seen["state"], seen["run"]) == ("approved", "done")
    # The third part and the answer; nothing of what was done before.
    assert [len(house.read(name)) for name in ("m", "brain")] == [1, 1]
    done = await house.plans.find(waiting["plan"], "default")
    assert (done.status, [one.subtask for one in done.done]) == ("done", ["s0", "s1", "s2"])


async def test_one_that_died_after_its_end_is_not_paid_again(open_: Any) -> None:
    """Its process was killed after the plan was done and before the approval knew."""
    house = await open_()
    waiting = await parked(house)
    await house.house.control.approvals.decide(waiting["id"], YES, None, tell=False)
    call = Call(approved=frozenset(("budget",)), resumed=True)
    first = await house.pipeline.complete(asked(resume=waiting["plan"]), call)
    before = [len(house.read(name)) for name in ("m", "brain")]
    assert await house.house.control.parking.run_one(house.edition)
    assert [len(house.read(name)) for name in ("m", "brain")] == before
    seen = await house.house.control.approvals.read(waiting["id"], None)
    assert seen["run"] == "done"
    assert seen["answer"]["message"]["content"] == [{"text": first.text}]


async def test_a_rejected_plan_stays_paused_with_what_is_done(open_: Any) -> None:
    house = await open_()
    waiting = await parked(house)
    no = Decision(approve=False, by="key", origin="127.0.0.1", note="Too dear.")
    await house.house.control.approvals.decide(waiting["id"], no, None, tell=False)
    assert not await house.house.control.parking.run_one(house.edition)
    assert (await house.plans.find(waiting["plan"], "default")).status == "paused"


async def test_the_same_key_again_gets_the_answer_of_the_plan_that_went_on(open_: Any) -> None:
    house = await open_()
    call = Call(idempotency_key="k1")
    with pytest.raises(ApprovalNeeded):
        await house.pipeline.complete(asked(), call)
    assert (answer := await house.approve()) is not None
    before = len(house.read("m"))
    again = await house.pipeline.complete(asked(), call)
    assert again.text == answer.text
    assert len(house.read("m")) == before == 3


async def test_a_caller_who_waits_gets_the_answer_on_his_stream(open_: Any) -> None:
    house = await open_()
    house.house.control.parking.start(lambda: house.edition)
    kinds: list[str] = []
    async for event in house.pipeline.stream(asked(), Call(waits_s=30.0)):
        if isinstance(event, Progress):
            kinds.append(event.kind)
        if isinstance(event, Progress) and event.kind == "approval.required":
            await house.house.control.approvals.decide(event.data["id"], YES, None, tell=False)
        if isinstance(event, Done):
            done: Completion = event.completion
    assert kinds[-1] == "approval.required"
    assert [one["status"] for one in done.extension["plan"]["subtasks"]] == ["done"] * 3
    assert len(house.read("m")) == 3


async def test_a_planner_that_must_ask_makes_no_plan_of_its_own(open_: Any) -> None:
    house = await open_()
    call = Call()
    # Two dollars are spent in this request already.
    spent = Add(f"budget/request:{call.id}", 2 * NANO_PER_USD)
    await house.house.control.counters.end("x", [spent], flushed=True)
    with pytest.raises(ApprovalNeeded):
        await house.pipeline.complete(Request(PLAN, (user("Build it."),)), call)
    assert house.read("brain") == house.read("m") == []
    assert await house.plans.list("default") == []


async def test_a_panel_within_a_plan_asks_for_the_whole_plan(open_: Any) -> None:
    house = await open_()
    panel = {"id": "p", "kind": "write", "task": "do p", "model": "fusion/pair", "needs": ["s1"]}
    graph = {"subtasks": [*ROW["subtasks"][:2], panel]}
    with pytest.raises(ApprovalNeeded):
        await house.pipeline.complete(asked(graph=graph), Call())
    (waiting,) = await house.house.control.approvals.newest(None, "pending")
    kept = await house.plans.find(waiting["plan"], "default")
    assert [one.subtask for one in kept.done] == ["s0", "s1"]
    assert await house.approve() is not None
    assert (await house.plans.find(waiting["plan"], "default")).status == "done"
    assert len(house.read("m")) == 4  # two parts, and two panelists that were asked once allowed


# Two runs of one plan


async def test_a_plan_has_one_run_at_a_time(open_: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    house = await open_()
    waiting = await parked(house)
    plan = waiting["plan"]
    await house.plans.take(plan, "run_1")
    with pytest.raises(Conflict, match="being worked on"):
        await house.pipeline.complete(asked(resume=plan), Call())
    assert (await house.plans.find(plan, "default")).status == "running"
    # Its process dies: nobody says any more that it is at it.
    monkeypatch.setattr(record, "HELD_S", 0.0)
    await house.plans.still(plan, "run_1")
    assert (await house.plans.find(plan, "default")).status == "interrupted"
    assert (await house.plans.list("default"))[0]["status"] == "interrupted"
    await house.plans.take(plan, "run_2")
    with pytest.raises(Conflict, match="Another run"):
        await house.plans.still(plan, "run_1")
    await house.plans.end(plan, "run_1", "failed", {})  # the dead one changes nothing
    assert (await house.plans.still(plan, "run_2")) == "running"


# Over HTTP


async def test_a_plan_is_parked_approved_and_shown_over_http(open_: Any) -> None:
    house = await open_()
    editions = house.house.editions

    async def everybody(_: HTTPConnection) -> Caller:
        return Caller()

    rooms = [
        PlansRoom(editions, house.plans, SystemClock()),
        ApprovalsRoom(house.house.control, editions),
    ]
    transport = httpx.ASGITransport(app=site(rooms, everybody))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        body = {"task": "Build it.", "graph": ROW}
        told = await http.post("/v1/plans", json=body)
        assert told.status_code == 402
        approval = told.json()["error"]["approval"]
        (listed,) = (await http.get("/v1/plans")).json()["data"]
        assert listed["status"] == "paused"
        seen = (await http.get(f"/v1/approvals/{approval}")).json()
        assert seen["plan"] == listed["id"]
        said = {"decision": "approve", "ceiling": 50}
        assert (await http.post(f"/v1/approvals/{approval}", json=said)).status_code == 200
        assert await house.house.control.parking.run_one(house.edition)
        shown = (await http.get(f"/v1/plans/{listed['id']}")).json()
        assert (shown["status"], shown["answer"]) == ("done", "answer")
        streamed = await http.post("/v1/plans", json={**body, "stream": True})
        assert "event: approval.required" in streamed.text
        assert '"code": "approval_required", "approval": "apv_' in streamed.text
        late = await http.post("/v1/plans", json=body, headers={"x-approval-wait-s": "soon"})
        assert (late.status_code, late.json()["error"]["param"]) == (400, "x-approval-wait-s")
