"""A person is asked: freeze, decide, go on exactly once. On a real store, with a fake model."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from guarded import HELLO, IN_SESSION, Guarded, store, until

from models.call import Call
from models.errors import (
    ApprovalNeeded,
    BadRequest,
    Conflict,
    DeadlineExceeded,
    NotFound,
    PolicyDenied,
    StoreUnavailable,
    UpstreamError,
)
from models.fake import FakeClock
from models.messages import Completion, Done, Event, Message, Progress, TextDelta, user
from models.policies import Approvals as Settings
from serve.control import neutral
from serve.control.approvals import HELD_S, Decision
from serve.control.entrance import Entrance
from serve.control.webhook import ATTEMPTS, Webhook
from serve.store import schema
from serve.store.database import Database

FREEZE = {"budget": {"kind": "spend", "limit_usd": 1}}
YES = Decision(True, by="key_ada", origin="127.0.0.1")
ONCE = replace(YES, once=True)
NO = Decision(False, by="key_ada", origin="127.0.0.1", note="too dear")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with store(tmp_path) as made:
        yield made


async def frozen(database: Database, **more: Any) -> tuple[Guarded, str]:
    """A process whose session has spent its dollar, and what is asked for the next one."""
    process = Guarded(database, FREEZE, **more)
    await process.entrance.complete(HELLO, IN_SESSION)
    with pytest.raises(ApprovalNeeded) as caught:
        await process.entrance.complete(HELLO, IN_SESSION)
    assert caught.value.approval.startswith("apv_")
    assert caught.value.approval in caught.value.message
    return process, caught.value.approval


async def decide(process: Guarded, identity: str, decision: Decision) -> dict[str, Any]:
    return await process.control.approvals.decide(identity, decision, "default", tell=False)


async def seen(process: Guarded, identity: str) -> dict[str, Any]:
    return await process.control.approvals.read(identity, "default")


# Freeze, decide, go on


async def test_the_parked_request_goes_on_once_it_is_approved(database: Database) -> None:
    process, identity = await frozen(database)
    assert not await process.control.parking.run_one(process)
    await decide(process, identity, YES)
    assert await process.control.parking.run_one(process)
    assert not await process.control.parking.run_one(process)
    approval = await seen(process, identity)
    assert (approval["state"], approval["run"]) == ("approved", "done")
    assert neutral.completion(approval["answer"]).text == "ok"
    assert len(process.model.calls) == 2


async def test_a_new_ceiling_lets_the_session_go_on(database: Database) -> None:
    process, identity = await frozen(database)
    assert (await seen(process, identity))["asks"][0]["proposed_ceiling"] == 2
    await decide(process, identity, replace(YES, ceiling=4.0))
    await process.control.parking.run_one(process)
    for _ in range(2):
        await process.entrance.complete(HELLO, IN_SESSION)
    with pytest.raises(ApprovalNeeded, match="it may spend 4"):
        await process.entrance.complete(HELLO, IN_SESSION)


async def test_once_is_once(database: Database) -> None:
    process, identity = await frozen(database)
    await decide(process, identity, ONCE)
    await process.control.parking.run_one(process)
    with pytest.raises(ApprovalNeeded) as caught:
        await process.entrance.complete(HELLO, IN_SESSION)
    assert caught.value.approval != identity


async def test_the_same_ask_is_one_approval_with_one_request_behind_it(database: Database) -> None:
    process, identity = await frozen(database)
    other = Guarded(database, FREEZE)
    for one in (process, other):
        with pytest.raises(ApprovalNeeded) as caught:
            await one.entrance.complete(HELLO, IN_SESSION)
        assert caught.value.approval == identity
    with pytest.raises(ApprovalNeeded) as caught:
        elsewhere = replace(IN_SESSION, project="another")
        await process.entrance.complete(HELLO, elsewhere)
    assert caught.value.approval != identity


async def test_a_rejected_request_never_runs(database: Database) -> None:
    process, identity = await frozen(database)
    await decide(process, identity, NO)
    assert not await process.control.parking.run_one(process)
    approval = await seen(process, identity)
    assert (approval["state"], approval["run"]) == ("rejected", "failed")
    assert "too dear" in approval["error"]["message"]


async def test_who_decided_what_when_and_from_where_is_kept(database: Database) -> None:
    process, identity = await frozen(database)
    await decide(process, identity, NO)
    approval = await seen(process, identity)
    assert approval["decided_by"] == "key_ada"
    assert approval["decided_from"] == "127.0.0.1"
    assert approval["decided_at"] == 1000.0
    assert approval["note"] == "too dear"


# Death and rivals


async def test_a_request_goes_on_after_its_process_died(database: Database) -> None:
    """Frozen in one process, approved while none lives, begun in a second one that dies in the
    middle, ended in a third."""
    clock = FakeClock(1000.0)
    first, identity = await frozen(database, clock=clock)
    await decide(first, identity, YES)

    second = Guarded(database, FREEZE, clock=clock, first_token_s=10_000)
    dies = asyncio.create_task(second.control.parking.run_one(second))
    await until(lambda: bool(second.model.calls))
    third = Guarded(database, FREEZE, clock=clock)
    assert not await third.control.parking.run_one(third)  # the second one may still live
    dies.cancel()
    await asyncio.gather(dies, return_exceptions=True)

    await clock.advance(HELD_S + 1)
    assert await third.control.parking.run_one(third)
    assert not await third.control.parking.run_one(third)
    approval = await seen(third, identity)
    assert (approval["run"], len(third.model.calls)) == ("done", 1)


async def test_a_store_that_fails_meanwhile_is_not_its_end(database: Database) -> None:
    clock = FakeClock(1000.0)
    first, identity = await frozen(database, clock=clock)
    await decide(first, identity, YES)
    second = Guarded(database, FREEZE, clock=clock, reply=[StoreUnavailable("dead"), "ok"])
    assert await second.control.parking.run_one(second)
    assert (await seen(second, identity))["run"] == "parked"
    await clock.advance(HELD_S + 1)
    assert await second.control.parking.run_one(second)
    assert (await seen(second, identity))["run"] == "done"


async def test_a_bug_of_ours_is_its_end_and_is_not_paid_for_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, identity = await frozen(database)
    await decide(process, identity, YES)

    async def broken(*_: object) -> Completion:
        raise KeyError("a secret")

    monkeypatch.setattr(process.paid, "complete", broken)
    assert await process.control.parking.run_one(process)
    approval = await seen(process, identity)
    assert approval["run"] == "failed"
    assert approval["error"]["message"] == "Internal error: KeyError."


async def test_of_many_processes_one_goes_on_with_it(database: Database) -> None:
    process, identity = await frozen(database)
    await decide(process, identity, YES)
    others = [Guarded(database, FREEZE) for _ in range(5)]
    ran = await asyncio.gather(*(one.control.parking.run_one(one) for one in others))
    assert sorted(ran) == [False] * 4 + [True]
    assert sum(len(one.model.calls) for one in others) == 1


async def test_whoever_was_taken_for_dead_cannot_say_how_it_ended(database: Database) -> None:
    process, identity = await frozen(database)
    await decide(process, identity, YES)
    approvals = process.control.approvals
    assert await approvals.take("slow")
    assert isinstance(process.clock, FakeClock)
    await process.clock.advance(HELD_S + 1)
    assert await approvals.take("quick")
    answer = Completion("m", Message("assistant"))
    assert not await approvals.still(identity, "slow")
    assert not await approvals.done(identity, "slow", answer)
    assert await approvals.done(identity, "quick", answer)
    assert not await approvals.failed(identity, "quick", UpstreamError("late"))


async def test_of_two_decisions_at_once_one_counts(database: Database) -> None:
    process, identity = await frozen(database)
    said = await asyncio.gather(
        *(decide(process, identity, one) for one in (YES, NO, ONCE)), return_exceptions=True
    )
    assert sum(isinstance(one, Conflict) for one in said) == 2


async def test_what_is_allowed_and_has_not_run_yet_is_not_asked_again(
    database: Database,
) -> None:
    """A client that sends it once more, under its key, before anybody goes on with it."""
    process = Guarded(database, FREEZE)
    await process.entrance.complete(HELLO, IN_SESSION)
    keyed = replace(IN_SESSION, idempotency_key="k")
    asked: list[str] = []
    for key in ("k", "k", "another"):
        with pytest.raises(ApprovalNeeded) as caught:
            await process.entrance.complete(HELLO, replace(keyed, idempotency_key=key))
        asked.append(caught.value.approval)
        if len(asked) == 1:
            await decide(process, asked[0], ONCE)
    assert asked[0] == asked[1] != asked[2]
    assert await process.control.parking.run_one(process)
    assert len(process.model.calls) == 2


def raised_meanwhile(process: Guarded, identity: str) -> None:
    """Whatever `process` asks from now on is written only after `identity` was approved."""
    approvals: Any = process.control.approvals
    write = approvals.ask

    async def ask(*args: Any, **more: Any) -> Any:
        if (await seen(process, identity))["state"] == "pending":
            await decide(process, identity, replace(YES, ceiling=9.0))
        return await write(*args, **more)

    approvals.ask = ask


async def test_what_was_raised_between_the_verdict_and_the_ask_is_not_asked_again(
    database: Database,
) -> None:
    process, identity = await frozen(database)
    raised_meanwhile(process, identity)
    assert (await process.entrance.complete(HELLO, IN_SESSION)).text == "ok"
    (only,) = await process.control.approvals.newest("default")
    assert (only["id"], only["state"]) == (identity, "approved")


async def test_nor_on_a_stream(database: Database) -> None:
    process, identity = await frozen(database)
    raised_meanwhile(process, identity)
    events = [event async for event in process.entrance.stream(HELLO, IN_SESSION)]
    assert [type(event) for event in events] == [TextDelta, Done]
    assert len(await process.control.approvals.newest("default")) == 1


async def test_nor_where_it_was_answered_in_part(database: Database) -> None:
    """What was said cannot be said again, so the caller is told to ask again, and nobody else."""
    process, identity = await frozen(database)
    raised_meanwhile(process, identity)

    class Half:
        async def stream(self, request: Any, call: Call) -> Any:
            yield TextDelta("Half of")
            await process.models.complete(request, call)

        async def complete(self, request: Any, call: Call) -> Any: ...

    halves = Entrance(Half(), process.catalog, (), process.control)
    told: list[Event] = []
    with pytest.raises(Conflict, match="Ask again"):
        events = halves.stream(HELLO, IN_SESSION)
        while True:
            told.append(await anext(events))
    assert told == [TextDelta("Half of")]
    assert len(await process.control.approvals.newest("default")) == 1


async def test_after_its_time_nothing_can_be_approved(database: Database) -> None:
    process, identity = await frozen(database, approvals={"expires_s": 60})
    assert isinstance(process.clock, FakeClock)
    await process.clock.advance(61)
    assert (await seen(process, identity))["state"] == "expired"
    with pytest.raises(Conflict, match="expired"):
        await decide(process, identity, YES)
    await process.control.approvals.sweep(tell=False)
    assert (await seen(process, identity))["run"] == "failed"
    with pytest.raises(ApprovalNeeded) as caught:
        await process.entrance.complete(HELLO, IN_SESSION)
    assert caught.value.approval != identity


async def test_another_projects_approval_is_not_there(database: Database) -> None:
    process, identity = await frozen(database)
    approvals = process.control.approvals
    with pytest.raises(NotFound):
        await approvals.decide(identity, YES, "another", tell=False)
    with pytest.raises(NotFound):
        await approvals.read(identity, "another")
    assert await approvals.newest("another") == []
    assert len(await approvals.newest("default", "pending")) == 1


@pytest.mark.parametrize("ceiling", [0.0, -1.0, 1e30])
async def test_a_ceiling_that_is_none(database: Database, ceiling: float) -> None:
    process, identity = await frozen(database)
    with pytest.raises(BadRequest, match="ceiling"):
        await decide(process, identity, replace(YES, ceiling=ceiling))
    assert (await seen(process, identity))["state"] == "pending"


async def test_a_ceiling_where_there_is_none_to_raise(database: Database) -> None:
    process = Guarded(database, {"a": {"kind": "size", "max_prompt_chars": 1, "then": "ask"}})
    with pytest.raises(ApprovalNeeded) as caught:
        await process.entrance.complete(HELLO, Call())
    with pytest.raises(BadRequest, match="no ceiling"):
        await decide(process, caught.value.approval, replace(YES, ceiling=5.0))
    await decide(process, caught.value.approval, YES)
    await process.control.parking.run_one(process)
    assert len(process.model.calls) == 1


# Callers who wait


async def waiting(
    database: Database, decision: Decision
) -> tuple[Guarded, asyncio.Task[Completion]]:
    process, identity = await frozen(database)
    with pytest.raises(ApprovalNeeded):
        await process.entrance.complete(HELLO, IN_SESSION)
    await decide(process, identity, NO)
    patient = replace(IN_SESSION, waits_s=60.0)
    task = asyncio.create_task(process.entrance.complete(HELLO, patient))
    (pending,) = await first_pending(process)
    await decide(process, pending["id"], decision)
    return process, task


async def first_pending(process: Guarded) -> list[dict[str, Any]]:
    for _ in range(1000):
        if found := await process.control.approvals.newest("default", "pending"):
            return found
        await asyncio.sleep(0.001)
    raise AssertionError("nothing is asked")


async def ticking(process: Guarded, task: asyncio.Task[Any]) -> None:
    assert isinstance(process.clock, FakeClock)
    for _ in range(400):
        if task.done():
            return
        await process.clock.advance(0.5)
        await asyncio.sleep(0.005)


async def test_a_caller_who_waits_gets_the_answer(database: Database) -> None:
    process, task = await waiting(database, YES)
    await process.control.parking.run_one(process)
    await ticking(process, task)
    assert (await task).text == "ok"
    assert len(process.model.calls) == 2


async def test_or_the_refusal(database: Database) -> None:
    process, task = await waiting(database, NO)
    await ticking(process, task)
    with pytest.raises(PolicyDenied, match="too dear"):
        await task


async def test_or_that_nobody_decided(database: Database) -> None:
    process, _ = await frozen(database)
    patient = replace(IN_SESSION, waits_s=3.0)
    task = asyncio.create_task(process.entrance.complete(HELLO, patient))
    await ticking(process, task)
    with pytest.raises(DeadlineExceeded, match="It stands"):
        await task


async def test_a_stream_says_what_it_waits_for(database: Database) -> None:
    process, identity = await frozen(database)
    patient = replace(IN_SESSION, waits_s=60.0)
    told: list[Event] = []

    async def read() -> None:
        # A list grows while the stream waits, which a comprehension would not show.
        async for event in process.entrance.stream(HELLO, patient):
            told.append(event)  # noqa: PERF401

    task = asyncio.create_task(read())
    await until(lambda: bool(told))
    assert isinstance(told[0], Progress)
    assert (told[0].kind, told[0].data["id"]) == ("approval.required", identity)
    await decide(process, identity, replace(YES, ceiling=10.0))
    await process.control.parking.run_one(process)
    await ticking(process, task)
    # The parked request was another one's, so this one was asked for itself.
    assert [type(event) for event in told] == [Progress, TextDelta, Done]
    assert len(process.model.calls) == 3


async def test_what_a_panelist_had_to_ask_is_asked_for_the_whole_request(
    database: Database,
) -> None:
    process, _ = await frozen(database)

    class Fails:
        """A fusion all of whose members had to ask."""

        async def complete(self, request: Any, call: Call) -> Completion:
            try:
                return await process.models.complete(request, call.child("panelist"))
            except ApprovalNeeded:
                raise UpstreamError("No panelist answered.") from None

        def stream(self, request: Any, call: Call) -> Any: ...

    ask_later = Entrance(Fails(), process.catalog, (), process.control)
    with pytest.raises(ApprovalNeeded):
        await ask_later.complete(HELLO, replace(IN_SESSION, session="ses_1", id="req_7"))


# The webhook


async def test_the_webhook_is_told_signed_and_again_until_it_hears(database: Database) -> None:
    hook = {"webhook": "http://hook/", "webhook_key_env": "HOOK"}
    process, identity = await frozen(database, approvals=hook)
    heard: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        heard.append(request)
        return httpx.Response(500 if len(heard) < 3 else 204)

    clock = process.clock
    assert isinstance(clock, FakeClock)
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    webhook = Webhook(
        database, lambda: Settings.model_validate(hook), client, clock, {"HOOK": "secret"}
    )
    for _ in range(3):
        assert await webhook.send_one()
        assert not await webhook.send_one()  # not yet due again
        await clock.advance(100)
    assert not await webhook.send_one()
    assert len(heard) == 3
    body = json.loads(heard[0].content)
    assert (body["type"], body["data"]["id"]) == ("approval.pending", identity)
    assert {json.loads(one.content)["id"] for one in heard} == {body["id"]}
    at, _, digest = heard[0].headers["x-fusion-signature"].removeprefix("t=").partition(",v1=")
    message = f"{at}.".encode() + heard[0].content
    assert digest == hmac.new(b"secret", message, hashlib.sha256).hexdigest()


async def test_a_webhook_that_never_hears_is_given_up(database: Database) -> None:
    hook = {"webhook": "http://hook/", "webhook_key_env": "HOOK"}
    process, _ = await frozen(database, approvals=hook)

    def down(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody")

    assert isinstance(process.clock, FakeClock)
    client = httpx.AsyncClient(transport=httpx.MockTransport(down))
    webhook = Webhook(
        database, lambda: Settings.model_validate(hook), client, process.clock, {"HOOK": "x"}
    )
    for _ in range(ATTEMPTS):
        assert await webhook.send_one()
        await process.clock.advance(100_000)
    assert not await webhook.send_one()


def test_records_survive_their_json() -> None:
    request = replace(HELLO, messages=(user("hi"),))
    assert neutral.request(json.loads(json.dumps(neutral.write(request)))) == request
    call = Call(session="s", approved=frozenset({"a"}), metadata=(("k", "v"),))
    assert neutral.call(json.loads(json.dumps(neutral.write(call)))) == call


async def test_one_that_waits_is_found_behind_a_hundred_others(database: Database) -> None:
    process, identity = await frozen(database)
    approvals = process.control.approvals
    async with database.write() as connection:
        [row] = (await connection.execute(sa.select(schema.approvals))).mappings().all()
        others = [
            {**row, "id": f"apv_{n}", "state": "rejected", "created_at": row["created_at"] + n}
            for n in range(1, 120)
        ]
        await connection.execute(sa.insert(schema.approvals), others)
    assert [one["id"] for one in await approvals.newest("default", "pending")] == [identity]
    assert len(await approvals.newest("default", "rejected")) == 100
    assert len(await approvals.newest("default")) == 100
    await process.clock.advance(100_000)
    assert await approvals.newest("default", "pending") == []
    assert [one["id"] for one in await approvals.newest("default", "expired")] == [identity]
