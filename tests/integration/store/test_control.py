"""Limits, approvals, sessions and keys in real databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import stores

from models.answerer import SystemClock
from models.call import Call
from models.errors import BadRequest, Conflict, NotFound
from models.fake import FakeModel
from models.messages import Request, assistant, user
from serve.control.approvals import Approvals, Decision
from serve.control.counters import Counters
from serve.control.idempotency import Idempotent
from serve.control.policy.engine import Ruling, Said
from serve.control.policy.values import Add, Ceiling, Count, Event, Hold, Put, State, Verdict
from serve.control.sessions import store
from serve.control.sessions.store import New, Sessions
from serve.store.database import Database


@pytest.fixture
async def two(store: str) -> AsyncIterator[tuple[Database, Database]]:
    """One empty store as two processes see it."""
    async with stores.empty(store) as one:
        other = Database(store)
        yield one, other
        await other.close()


async def test_no_count_is_lost_and_no_limit_passed(two: tuple[Database, Database]) -> None:
    """Forty counts at once through two pools, ten of which are allowed."""

    def judge(state: State) -> Ruling:
        event = Event("request", 0.0, Call(), Request("m", ()))
        if state.value("c") >= 10:
            return Ruling("deny", event)
        return Ruling("allow", event, changes=(Add("c", 1),))

    pools = [Counters(database) for database in two]
    said = await asyncio.gather(
        *(pools[at % 2].judged(["c", "d"], f"h{at}", 0.0, judge) for at in range(40))
    )
    assert sum(ruling.decision == "allow" for ruling in said) == 10
    assert (await pools[0].read(["c"], 0.0)).value("c") == 10


async def test_what_is_held_is_given_back_or_counted(two: tuple[Database, Database]) -> None:
    pools = [Counters(database) for database in two]
    event = Event("request", 0.0, Call(), Request("m", ()))
    held = Ruling("allow", event, changes=(Put("d", 7), Hold("c", 5, 1e9), Hold("d", 2, 1e9)))
    for holder in "xyz":
        await pools[0].judged(["c", "d"], holder, 0.0, lambda _: held)
    assert (await pools[1].read(["c", "d"], 0.0)).counts == {"c": Count(0, 15), "d": Count(7, 6)}
    await pools[1].end("x", [Add("c", 3), Add("e", 1)], flushed=False)
    await pools[0].release("y", settle=True)
    await pools[0].release("z")
    now = (await pools[1].read(["c", "d", "e"], 0.0)).counts
    assert now == {"c": Count(8, 0), "d": Count(9, 0), "e": Count(1, 0)}


async def test_an_approval_is_asked_once_decided_once_and_taken_once(
    two: tuple[Database, Database],
) -> None:
    clock = SystemClock()
    sides = [Approvals(database, Counters(database), clock) for database in two]
    request, call = Request("m", (user("x"),)), Call(session="s")
    verdict = Verdict("ask", "Why.", ceiling=Ceiling("c#ceiling", 5, "calls"))
    ruling = Ruling("ask", Event("request", 0.0, call, request), (Said("p", verdict),))
    asked = await asyncio.gather(
        *(sides[at % 2].ask(ruling, request, call, 60, tell=True) for at in range(8))
    )
    ids, new = zip(*filter(None, asked), strict=True)
    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert sum(new) == 1
    identity = ids[0]
    yes = Decision(True, by="ada", origin="here")
    said = await asyncio.gather(
        *(sides[at % 2].decide(identity, yes, None, tell=True) for at in range(6)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, Conflict) for one in said) == 5
    # What rests on the ceiling as it was before is judged again, and not asked again.
    assert await sides[1].ask(ruling, request, call, 60, tell=True) is None
    taken = await asyncio.gather(*(sides[at % 2].take(f"r{at}") for at in range(6)))
    assert sum(row is not None for row in taken) == 1


async def test_appends_and_keys_at_the_same_time(
    two: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SystemClock()
    sessions = [Sessions(database, clock) for database in two]
    identity = (await sessions[0].create("default"))["id"]
    pair = [New(user("q")), New(assistant("a"))]
    await asyncio.gather(*(sessions[at % 2].append(identity, "default", pair) for at in range(20)))
    page = await sessions[0].page(identity, "default")
    assert [item["position"] for item in page] == list(range(40))
    assert [item["message"]["role"] for item in page] == ["user", "assistant"] * 20
    fork = await sessions[1].fork(identity, "default", page[9]["id"])
    assert fork["length"] == 10
    assert len(await sessions[0].newest("default", before=fork["id"])) == 1

    # An append that cannot be says why, and changes nothing; one of ten thousand items is one.
    with monkeypatch.context() as few:
        few.setattr(store, "MOST_ITEMS", 41)
        with pytest.raises(BadRequest, match="at most 41 items"):
            await sessions[0].append(identity, "default", pair)
    with pytest.raises(NotFound):
        await sessions[0].append(identity, "another", pair)
    assert await sessions[0].append(identity, "default", pair * 5000) == 10_040
    assert len((await sessions[1].history(identity, "default")).items) == 10_040
    await sessions[1].change(identity, "default", archived=True)
    with pytest.raises(Conflict, match="archived"):
        await sessions[0].append(identity, "default", pair)

    model = FakeModel(first_token_s=0.1)
    sides = [Idempotent(model, database, clock) for database in two]
    call = Call(idempotency_key="k")
    request = Request("m", (user("x"),))
    await asyncio.gather(*(sides[at % 2].complete(request, call) for at in range(6)))
    assert len(model.calls) == 1
