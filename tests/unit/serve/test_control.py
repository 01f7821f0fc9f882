"""The rules in the way of calls, on a real store, with a fake model behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from guarded import HELLO, IN_SESSION, Guarded, store, until

from models.call import Call
from models.errors import (
    AnswerDenied,
    ApprovalNeeded,
    FusionError,
    Overloaded,
    PolicyDenied,
    StoreUnavailable,
    Unavailable,
    UpstreamError,
)
from models.fake import settle
from models.messages import (
    Completion,
    Done,
    Message,
    Sampling,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    user,
)
from serve.control.policy.engine import Ruling
from serve.control.policy.values import Event
from serve.store.database import Database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with store(tmp_path) as made:
        yield made


BUDGET = {"budget": {"kind": "spend", "limit_usd": 3}}
HARD = {"budget": {"kind": "spend", "limit_usd": 3, "then": "deny"}}


async def test_at_its_limit_a_session_is_frozen(database: Database) -> None:
    process = Guarded(database, BUDGET)
    for _ in range(3):
        await process.entrance.complete(HELLO, IN_SESSION)
    with pytest.raises(ApprovalNeeded, match="has spent 3 dollars"):
        await process.entrance.complete(HELLO, IN_SESSION)
    await process.entrance.complete(HELLO, Call(session="ses_2"))
    assert len(process.model.calls) == 4


async def test_no_two_processes_pass_a_limit_together(database: Database) -> None:
    """Twenty calls at once through two processes, three of which can be paid."""
    processes = [Guarded(database, HARD, first_token_s=1) for _ in range(2)]
    calls = [
        asyncio.create_task(processes[at % 2].models.complete(HELLO, Call(session="ses_1")))
        for at in range(20)
    ]
    await until(lambda: sum(call.done() for call in calls) >= 17)
    for process in processes:
        await process.clock.advance(2)
    said = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(one, Completion) for one in said) == 3
    assert sum(isinstance(one, PolicyDenied) for one in said) == 17
    assert await processes[0].spent("budget/session:ses_1") == 3


@pytest.mark.parametrize(
    ("error", "usd"),
    [(Unavailable("down"), 0), (Overloaded("later"), 0), (UpstreamError("bad"), 1)],
)
async def test_a_failed_call_counts_if_it_may_have_cost(
    database: Database, error: FusionError, usd: int
) -> None:
    process = Guarded(database, BUDGET, reply=error)
    with pytest.raises(type(error)):
        await process.models.complete(HELLO, IN_SESSION)
    assert await process.spent("budget/session:ses_1") == usd


async def test_a_cancelled_stream_counts_as_all_that_it_may_have_cost(database: Database) -> None:
    process = Guarded(database, BUDGET, reply="one two three")
    stream = process.models.stream(replace(HELLO, sampling=Sampling(max_tokens=2)), IN_SESSION)
    async for _ in stream:
        break
    await stream.aclose()
    assert await process.spent("budget/session:ses_1") == 2


async def test_a_hold_of_a_dead_process_ends_with_its_deadline(database: Database) -> None:
    dead = Guarded(database, HARD, first_token_s=100)
    call = Call(session="ses_1", deadline=1060.0)
    task = asyncio.create_task(
        dead.models.complete(replace(HELLO, sampling=Sampling(max_tokens=3)), call)
    )
    await until(lambda: bool(dead.model.calls))
    process = Guarded(database, HARD)
    with pytest.raises(PolicyDenied):
        await process.models.complete(HELLO, IN_SESSION)
    await process.clock.advance(61)
    await process.models.complete(HELLO, IN_SESSION)
    task.cancel()


async def test_from_the_limit_on_the_cheaper_model_answers(database: Database) -> None:
    spend = {"kind": "spend", "limit_usd": 1, "then": "downgrade", "downgrade_to": "small"}
    process = Guarded(database, {"budget": spend})
    for _ in range(2):
        await process.entrance.complete(HELLO, IN_SESSION)
    assert [request.model for request, _ in process.model.calls] == ["m", "small"]


async def test_an_alias_leads_round_no_rule(database: Database) -> None:
    process = Guarded(database, {"only": {"kind": "allow", "models": ["small"]}})
    with pytest.raises(PolicyDenied, match="'m' is not allowed"):
        await process.entrance.complete(replace(HELLO, model="a"), Call())


async def test_too_many_requests_are_told_when_to_come_back(database: Database) -> None:
    process = Guarded(database, {"slow": {"kind": "rate", "per_minute": 6}})
    await process.entrance.complete(HELLO, Call())
    with pytest.raises(Overloaded) as caught:
        await process.entrance.complete(HELLO, Call())
    assert caught.value.retry_after_s == pytest.approx(10)


async def test_a_place_is_free_again_when_its_request_is_over(database: Database) -> None:
    process = Guarded(database, {"one": {"kind": "rate", "concurrent": 1}})
    for _ in range(3):
        await process.entrance.complete(HELLO, Call())
        await process.control.close()
    stream = process.entrance.stream(HELLO, Call())
    await anext(stream)
    with pytest.raises(Overloaded):
        await process.entrance.complete(HELLO, Call())
    await stream.aclose()
    await process.control.close()
    await process.entrance.complete(HELLO, Call())


async def test_a_tool_result_that_is_refused_gives_its_place_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Guarded(database, {"one": {"kind": "rate", "concurrent": 1}})
    ruled = process.control.rule

    async def rule(rules: Any, event: Event) -> Any:
        if event.phase == "tool_result":
            raise PolicyDenied("Not this.")
        return await ruled(rules, event)

    monkeypatch.setattr(process.control, "rule", rule)
    result = Message("tool", (Text("x"),), tool_call_id="1")
    for _ in range(3):
        with pytest.raises(PolicyDenied, match="Not this"):
            asked = replace(HELLO, messages=(*HELLO.messages, result))
            await process.entrance.complete(asked, Call())
        await process.control.close()
    await process.entrance.complete(HELLO, Call())


async def test_what_cannot_be_written_does_not_stop_the_log(database: Database) -> None:
    process = Guarded(database, {"slow": {"kind": "rate", "per_minute": 60}})
    with pytest.raises(LookupError):
        await process.entrance.complete(replace(HELLO, model="x\0y"), Call())
    await process.control.audit.flush()
    rows = [row async for row in process.control.audit.export()]
    assert [row["model"] for row in rows] == ["x\\x00y"]


async def test_a_forbidden_tool_call_is_not_streamed(database: Database) -> None:
    process = Guarded(database, {"tools": {"kind": "allow", "tools": ["search"]}})
    process.paid.tools = (ToolCall("1", "shell", "{}"),)
    stream = process.entrance.stream(HELLO, Call())
    assert await anext(stream) == TextDelta("ok")
    with pytest.raises(AnswerDenied, match="'shell'"):
        await anext(stream)


async def test_an_allowed_tool_call_is(database: Database) -> None:
    process = Guarded(database, {"tools": {"kind": "allow", "tools": ["shell"]}})
    process.paid.tools = (ToolCall("1", "shell", "{}"),)
    seen = [type(event) async for event in process.entrance.stream(HELLO, Call())]
    assert seen == [TextDelta, ToolCallDelta, Done]


async def test_secrets_do_not_reach_the_model(database: Database) -> None:
    process = Guarded(database, {"private": {"kind": "privacy"}})
    asked = replace(HELLO, messages=(user("key AKIAIOSFODNN7EXAMPLE"),))
    await process.entrance.complete(asked, Call())
    assert process.model.calls[0][0].messages[0].text == "key [secrets removed]"


async def test_who_would_be_asked_instead_must_be_there(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Guarded(database, {"secrets": {"kind": "privacy", "then": "redact"}})

    async def other(_: object, event: Event) -> Ruling:
        return Ruling("allow", replace(event, request=replace(event.request, model="nobody")))

    monkeypatch.setattr(process.control, "rule", other)
    with pytest.raises(PolicyDenied, match="no model is called that"):
        await process.models.complete(HELLO, IN_SESSION)


async def test_every_verdict_is_on_record_and_denials_before_they_are_heard(
    database: Database,
) -> None:
    process = Guarded(database, {"a": {"kind": "size", "max_prompt_chars": 5}, **HARD})
    await process.entrance.complete(HELLO, IN_SESSION)
    with pytest.raises(PolicyDenied):
        await process.models.complete(replace(HELLO, messages=(user("longer"),)), IN_SESSION)
    rows = [row async for row in process.control.audit.export()]
    assert ("a", "deny") in [(row["policy"], row["decision"]) for row in rows]
    assert sorted(await process.audited()) == [
        ("model_call", "a", "allow"),
        ("model_call", "a", "deny"),
        ("model_call", "budget", "allow"),
        ("request", "budget", "allow"),
        ("response", "budget", "allow"),
    ]


async def test_the_log_is_exported_by_project_and_from_a_place(database: Database) -> None:
    process = Guarded(database, {"a": {"kind": "size", "max_prompt_chars": 5}})
    for project in ("one", "two", "one"):
        await process.entrance.complete(HELLO, Call(project=project))
    await process.control.close()
    of_one = [row["id"] async for row in process.control.audit.export("one")]
    assert len(of_one) == 2
    behind = [row["id"] async for row in process.control.audit.export("one", after=of_one[0])]
    assert behind == of_one[1:]


async def test_without_their_counters_policies_let_nothing_pass(database: Database) -> None:
    process = Guarded(database, BUDGET)
    async with database.write() as connection:
        await connection.exec_driver_sql("drop table counters")
    with pytest.raises(StoreUnavailable):
        await process.entrance.complete(HELLO, IN_SESSION)
    assert process.model.calls == []


async def test_without_policies_nothing_is_written(database: Database) -> None:
    process = Guarded(database, {})
    await process.entrance.complete(HELLO, IN_SESSION)
    await settle()
    assert await process.audited() == []


async def test_calls_of_one_id_are_still_two(database: Database) -> None:
    """A client may name its requests, and may name two alike."""
    process = Guarded(database, HARD, first_token_s=1)
    three = replace(HELLO, sampling=Sampling(max_tokens=3))
    first = asyncio.create_task(process.models.complete(three, Call(id="same", session="ses_1")))
    await until(lambda: bool(process.model.calls))
    with pytest.raises(PolicyDenied):
        await process.models.complete(three, Call(id="same", session="ses_1"))
    first.cancel()
