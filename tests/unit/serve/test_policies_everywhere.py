"""The same rule on every way to a model: a batch's row, a spill, a fallback, a fusion's parts.

The whole pipeline of a gateway on a real store; only the models are fakes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from housed import Housed, housed

from models.answerer import SystemClock
from models.call import Call
from models.errors import ApprovalNeeded, PolicyDenied, Unavailable
from models.messages import Completion, Done, FusionOptions, Request, Sampling, user
from serve.control.approvals import Approvals, Decision
from serve.fleet import Count, Veto
from serve.fusion.contract import Analysis
from serve.jobs.asking import Ask, Reply
from serve.jobs.batch import Spec
from serve.jobs.batches import Batches
from serve.jobs.files import Files
from serve.jobs.runner import Runner
from serve.store.schema import entries

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PRICE = {"input": 1, "output": 1}
CATALOG: dict[str, Any] = {
    "models": {
        "own": {
            "engine": "fake",
            "replicas": {"min": 0, "max": 3},
            "fallbacks": ["spare"],
            "scaling": {
                "node": {"usd_per_hour": 1.0, "startup_s": 30},
                "replica": {
                    "prefill_tokens_per_s": 1000,
                    "decode": {
                        "step_base_s": 0.04,
                        "step_per_sequence_s": 0.04,
                        "max_batch": 4,
                    },
                },
                "targets": {"ttft_s": 2.0},
                "late_usd": 1.0,
                "spill": ["far"],
            },
        },
        "far": {"engine": "openai", "price": PRICE},
        "spare": {"engine": "openai", "price": PRICE},
    },
    "panels": {"pair": {"members": ["own", "far"], "judge": "spare", "synthesis": "own"}},
    "roles": {"judge": "own"},
}
ADDRESS = "ada@example.org"
SECRET = f"Write to {ADDRESS}."
EMPTY = json.dumps({key: [] for key in Analysis.model_fields})


def privacy(then: str) -> dict[str, Any]:
    """Addresses may be read by `own` alone."""
    return {"private": {"kind": "privacy", "then": then, "trusted_models": ["own"]}}


Open = Callable[..., Any]


@pytest.fixture
async def open_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def made(policies: dict[str, Any], **replies: Any) -> Housed:
            catalog = {**CATALOG, "policies": policies}
            return await stack.enter_async_context(
                housed(tmp_path, catalog, monkeypatch, **replies)
            )

        yield made


def asked(model: str, text: str = SECRET, **more: Any) -> Request:
    return Request(model, (user(text),), Sampling(max_tokens=20), **more)


async def answered(house: Housed, request: Request, *, whole: bool) -> Completion:
    if whole:
        return await house.pipeline.complete(request, Call())
    events = [event async for event in house.pipeline.stream(request, Call())]
    assert isinstance(events[-1], Done)
    return events[-1].completion


# A row of a batch


def rows(*models: str) -> list[tuple[Request, Call]]:
    return [(asked(model), Call(job="batch_1")) for model in models]


async def test_a_row_of_a_batch_is_redacted_for_whom_it_is_not_meant(open_: Open) -> None:
    house = await open_(privacy("redact"))
    replies = await house.desk.ask_many(rows("own", "far"))
    assert all(isinstance(reply, Completion) for reply in replies)
    assert ADDRESS in house.read("own")[0]
    assert ADDRESS not in house.read("far")[0]


async def test_a_row_of_a_batch_is_denied(open_: Open) -> None:
    house = await open_({"only": {"kind": "allow", "models": ["own"]}})
    fine, denied = await house.desk.ask_many(rows("own", "far"))
    assert isinstance(fine, Completion)
    assert isinstance(denied, PolicyDenied)
    assert house.read("far") == []


async def test_a_row_of_a_batch_asks_a_person(open_: Open) -> None:
    house = await open_(privacy("ask"))
    (reply,) = await house.desk.ask_many(rows("far"))
    assert isinstance(reply, ApprovalNeeded)
    assert reply.approval
    assert house.read("far") == []
    answer = await house.approve()
    assert answer is not None
    assert answer.text == "I am far"


class Gateway:
    """A house's desk, as a runner asks it."""

    def __init__(self, house: Housed) -> None:
        self._desk = house.desk

    async def ask_many(self, asks: list[Ask]) -> list[Reply]:
        return await self._desk.ask_many(asks)

    async def stands_for(self, names: list[str]) -> list[str]:
        return self._desk.stands_for(names)


class Hurry(SystemClock):
    """A clock on which nobody waits long."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.2))


class Batch:
    """A batch of three questions to `far`, and who works on it."""

    def __init__(self, house: Housed) -> None:
        database, clock = house.house.database, Hurry()
        self.house = house
        self.batches, self.files = Batches(database, clock), Files(database, clock)
        self.approvals = Approvals(database, house.house.control.counters, clock)
        self._clock = clock

    async def begin(self) -> asyncio.Task[Any]:
        draft = self.files.draft()
        for name in ("a", "b", "c"):
            row = {"id": name, "prompt": f"{SECRET} {name}", "max_tokens": 20}
            await draft.write(json.dumps(row).encode() + b"\n")
        file = await self.files.keep(draft, "default", "in.jsonl", "batch")
        self.id = (await self.batches.create("default", Spec(file.id, model="far"))).id
        return self.go_on()

    def go_on(self) -> asyncio.Task[Any]:
        """A runner, the first one or the next after one that died."""
        runner = Runner(
            self.batches, self.files, Gateway(self.house), self._clock, approvals=self.approvals
        )
        return asyncio.create_task(runner.run(self.id))

    async def waits(self, number: int) -> list[dict[str, Any]]:
        """The approvals that are asked for, once there are so many."""
        for _ in range(1000):
            found = await self.approvals.newest(None, "pending")
            if len(found) == number:
                return found
            await asyncio.sleep(0.01)
        raise AssertionError(f"there are {len(found)}")


async def test_a_batch_waits_for_a_persons_word_and_pays_each_row_once(open_: Open) -> None:
    batch = Batch(await open_(privacy("ask")))
    house = batch.house
    work = await batch.begin()
    await batch.waits(3)
    work.cancel()  # its runner dies, and another one asks for nothing anew
    await asyncio.gather(work, return_exceptions=True)
    work = batch.go_on()
    await asyncio.sleep(0.3)
    waiting = await batch.waits(3)
    assert house.read("far") == []
    yes = Decision(approve=True, by="key", origin="127.0.0.1")
    no = Decision(approve=False, by="key", origin="127.0.0.1", note="Not this one.")
    for one, word in zip(waiting, (yes, yes, no), strict=True):
        await batch.approvals.decide(one["id"], word, None, tell=False)
    while await house.house.control.parking.run_one(house.edition):
        pass
    ended = await asyncio.wait_for(work, 60)
    assert (ended.state, ended.done, ended.failed) == ("completed", 2, 1)
    assert len(house.read("far")) == 2
    assert ended.nano_usd == sum(await paid(house))
    errors = b"".join([piece async for piece in batch.files.content(ended.error_file)])
    assert b"Not this one." in errors


async def paid(house: Housed) -> list[int]:
    """What was booked, call by call."""
    await house.house.till.close()
    async with house.house.database.read() as connection:
        found = await connection.execute(sa.select(entries.c.nano_usd))
        return [cost for (cost,) in found]


async def test_a_batchs_budget_freezes_it_and_a_higher_one_lets_it_go_on(open_: Open) -> None:
    batch = Batch(await open_({"budget": {"kind": "spend", "limit_usd": 1e-9, "scope": "job"}}))
    house = batch.house
    work = await batch.begin()
    more = Decision(approve=True, by="key", origin="127.0.0.1", ceiling=1.0)
    asked_for = 0
    while not work.done():  # rows that were under way together ask each for itself
        for one in await batch.approvals.newest(None, "pending"):
            assert asked_for or not house.read("far")
            await batch.approvals.decide(one["id"], more, None, tell=False)
            asked_for += 1
        while await house.house.control.parking.run_one(house.edition):
            pass
        await asyncio.sleep(0.01)
    assert 1 <= asked_for <= 3
    ended = await work
    assert (ended.state, ended.done, ended.failed) == ("completed", 3, 0)
    assert len(house.read("far")) == 3


# What spills over, and what falls back


@pytest.mark.parametrize("whole", [True, False])
async def test_what_spills_over_is_redacted_for_the_model_that_it_goes_to(
    open_: Open, whole: bool
) -> None:
    house = await open_(privacy("redact"))
    assert (await answered(house, asked("own"), whole=whole)).model == "own"
    house.queue.seconds = 5.0
    spilled = await answered(house, asked("own"), whole=whole)
    assert (spilled.model, spilled.extension["spilled_from"]["model"]) == ("far", "own")
    assert ADDRESS in house.read("own")[0]
    assert ADDRESS not in house.read("far")[0]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "policies",
    [privacy("deny"), privacy("ask"), {"only": {"kind": "allow", "models": ["own"]}}],
)
async def test_what_may_not_spill_over_waits_where_it_is(
    open_: Open, policies: dict[str, Any], whole: bool
) -> None:
    house = await open_(policies)
    house.queue.seconds = 5.0
    assert (await answered(house, asked("own"), whole=whole)).model == "own"
    assert house.read("far") == []


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("then", "told"), [("deny", PolicyDenied), ("ask", ApprovalNeeded)])
async def test_what_cannot_wait_is_told_why_it_may_not_spill_over(
    open_: Open, monkeypatch: pytest.MonkeyPatch, then: str, told: type[Exception], whole: bool
) -> None:
    """No replica runs, and the budget of all models pays for none."""
    house = await open_(privacy(then))
    monkeypatch.setattr("serve.fleet.Site.replicas", none_runs)
    monkeypatch.setattr("serve.fleet.Site.veto", not_for_long)
    with pytest.raises(told, match="the prompt holds 1 x email"):
        await answered(house, asked("own"), whole=whole)
    assert house.read("far") == house.read("own") == []
    if then == "ask":
        answer = await house.approve()
        assert answer is not None
        assert answer.model == "far"


async def none_runs(_: Any) -> Count:
    return Count()


async def not_for_long(_: Any, place: str) -> Veto:
    return Veto(3600.0, "Not now.")


async def test_what_spills_over_counts_at_the_price_of_whom_it_goes_to(open_: Open) -> None:
    """`own` costs nothing; what it may spill to does, and the limit knows it beforehand."""
    limit = {"kind": "spend", "limit_usd": 0.00001, "scope": "project", "then": "deny"}
    house = await open_({"budget": limit})
    house.queue.seconds = 5.0
    with pytest.raises(PolicyDenied, match="budget"):
        await answered(house, asked("own"), whole=True)
    assert house.read("far") == house.read("own") == []


@pytest.mark.parametrize("whole", [True, False])
async def test_a_fallback_reads_only_what_it_may(open_: Open, whole: bool) -> None:
    house = await open_(privacy("redact"), own=Unavailable("gone"))
    assert (await answered(house, asked("own"), whole=whole)).model == "spare"
    assert ADDRESS not in house.read("spare")[0]


@pytest.mark.parametrize("whole", [True, False])
async def test_a_fallback_that_may_not_read_it_is_passed_over(open_: Open, whole: bool) -> None:
    house = await open_(privacy("deny"), own=Unavailable("gone"))
    with pytest.raises(Unavailable, match="gone"):
        await answered(house, asked("own"), whole=whole)
    assert house.read("spare") == []


async def test_a_fallback_that_a_person_must_allow_is_asked_once_he_has(open_: Open) -> None:
    house = await open_(privacy("ask"), own=Unavailable("gone"))
    with pytest.raises(ApprovalNeeded):
        await answered(house, asked("own"), whole=True)
    assert house.read("spare") == []
    answer = await house.approve()
    assert answer is not None
    assert answer.model == "spare"


# The parts of a fusion


@pytest.mark.parametrize("whole", [True, False])
async def test_panelist_and_judge_read_only_what_they_may(open_: Open, whole: bool) -> None:
    house = await open_(privacy("redact"), spare=EMPTY, own=f"Ask {ADDRESS}.")
    answer = await answered(house, asked("fusion/pair"), whole=whole)
    assert answer.extension["failed_models"] == []
    assert ADDRESS in house.read("own")[0]
    assert ADDRESS not in house.read("far")[0]
    # The judge reads what `own` has written, too.
    (judged,) = house.read("spare")
    assert "Ask " in judged
    assert ADDRESS not in judged


async def test_a_panelist_that_is_denied_is_left_out_and_so_is_a_judge(open_: Open) -> None:
    house = await open_(privacy("deny"))
    answer = await answered(house, asked("fusion/pair"), whole=True)
    (failed,) = answer.extension["failed_models"]
    assert (failed["model"], failed["status_code"]) == ("far", 403)
    assert answer.extension["failure_reason"] == "judge_upstream_error"
    assert (answer.model, house.read("far"), house.read("spare")) == ("own", [], [])


async def test_a_fusion_whose_panelists_must_all_ask_is_parked_whole(open_: Open) -> None:
    house = await open_(privacy("ask"), own=[EMPTY, "Done."])
    panel = FusionOptions(analysis_models=("far", "spare"), judge="own")
    with pytest.raises(ApprovalNeeded):
        await answered(house, asked("fusion/pair", fusion=panel), whole=True)
    assert house.read("far") == house.read("spare") == []
    answer = await house.approve()
    assert answer is not None
    assert answer.extension["failed_models"] == []
    assert ADDRESS in house.read("far")[0]


async def test_every_verdict_is_on_record_under_the_model_that_it_was_about(open_: Open) -> None:
    house = await open_(privacy("redact"))
    house.queue.seconds = 5.0
    await answered(house, asked("own"), whole=True)
    await house.house.control.close()
    rows = [row async for row in house.house.control.audit.export()]
    assert [(row["model"], row["phase"], row["reason"]) for row in rows] == [
        ("own", "model_call", ""),
        ("far", "model_call", "Removed 1 x email."),
    ]
