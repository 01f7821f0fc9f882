"""Replicas that share a store: what one learns the others know, and a restart forgets nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa

from models.errors import BadRequest, Conflict, NotFound
from models.fake import FakeClock
from router.candidate import Candidate
from router.gain import GainModel
from router.live import Answered, Event, Heard, LiveRouter, Looked, Question
from router.objective import Menu, Objective
from serve.auto.events import Route, read, write
from serve.auto.mind import Mind
from serve.auto.notebook import PAGE, Notebook
from serve.store.database import Database
from serve.store.schema import lessons

QUESTION = Question(
    "Name a bird, no 31",
    (Candidate("small", cost=0.0001), Candidate("large", cost=0.02)),
    Objective(quality=0.5),
    Menu(frozenset({"large"})),
)


class Office:
    """A store, and as many replicas as a test wants."""

    def __init__(self, database: Database, weights: GainModel) -> None:
        self.clock = FakeClock(1_000_000.0)
        self.database = database
        self.notebook = Notebook(database, self.clock)
        self.weights = weights

    async def replica(self) -> Mind:
        mind = Mind(LiveRouter(self.weights), self.notebook, self.clock)
        await mind.refresh()
        return mind

    async def answer(self, mind: Mind, id: str, project: str = "mine") -> Route:
        plan = await mind.decide(QUESTION)
        last = plan.decision.choice.models[-1]
        route = Route(
            project,
            id,
            last,
            last,
            plan.context,
            plan.eye,
            plan.expected,
            plan.predicted,
            plan.known,
        )
        await self.notebook.answered(route, [Answered(self.clock.now(), 0.1, 100, 0)])
        return route


@pytest.fixture
def office(database: Database, weights: GainModel) -> Office:
    return Office(database, weights)


async def quality(mind: Mind, model: str = "small") -> float:
    return (await mind.decide(QUESTION)).predicted[model]


async def test_what_one_replica_learns_the_other_knows(office: Office) -> None:
    one, other = await office.replica(), await office.replica()
    before = await quality(other)
    for number in range(30):
        await office.answer(one, f"req_{number}")
        await office.notebook.feedback("mine", f"req_{number}", 0.0)
    await other.refresh()
    await one.refresh()
    assert await quality(other) < before - 0.1
    assert await quality(one) == pytest.approx(await quality(other))
    assert other.status()["judgements"] == 30


async def test_a_restart_goes_on_from_checkpoint_and_log(office: Office) -> None:
    first = await office.replica()
    for number in range(4):
        await office.answer(first, f"req_{number}")
        await office.notebook.feedback("mine", f"req_{number}", 0.0)
    await first.refresh()
    await first.aclose()  # keeps a checkpoint
    assert (await office.notebook.checkpoint()).number == 8
    await office.answer(first, "req_last")
    await office.notebook.feedback("mine", "req_last", 0.0)
    second = await office.replica()
    await first.refresh()
    assert second.status()["judgements"] == 5
    assert await quality(second) == pytest.approx(await quality(first), abs=1e-4)


async def test_a_reset_and_an_import_reach_every_replica(office: Office) -> None:
    one, other = await office.replica(), await office.replica()
    before = await quality(one)
    for number in range(10):
        await office.answer(one, f"req_{number}")
        await office.notebook.feedback("mine", f"req_{number}", 0.0)
    await one.refresh()
    learned, state = await quality(one), one.state()
    await one.replace(None)
    await other.refresh()
    assert await quality(one) == await quality(other) == pytest.approx(before)
    await other.replace(state)
    await one.refresh()
    assert await quality(one) == pytest.approx(learned, abs=1e-4)


@pytest.mark.parametrize("state", [{}, {"format": 2}, {"format": 1, "learner": 3}])
async def test_a_broken_import_changes_nothing(office: Office, state: dict[str, object]) -> None:
    mind = await office.replica()
    with pytest.raises(BadRequest, match="cannot be imported"):
        await mind.replace(state)
    assert (await office.notebook.checkpoint()).state is None


async def test_a_checkpoint_that_is_broken_is_left_and_said(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    await office.notebook.replace({"format": 1})
    mind = await office.replica()
    assert "begins anew" in caplog.text
    assert 0 < await quality(mind) < 1


async def test_feedback_is_for_ones_own_answers_and_once(office: Office) -> None:
    mind = await office.replica()
    await office.answer(mind, "req_1")
    with pytest.raises(NotFound, match="No answer"):
        await office.notebook.feedback("theirs", "req_1", 1.0)
    with pytest.raises(NotFound, match="No answer"):
        await office.notebook.feedback("mine", "req_2", 1.0)
    await office.notebook.feedback("mine", "req_1", 1.0)
    with pytest.raises(Conflict, match="judged already, with 1"):
        await office.notebook.feedback("mine", "req_1", 0.0)


async def test_nothing_is_cheap_enough(office: Office) -> None:
    mind = await office.replica()
    tight = Question(QUESTION.prompt, QUESTION.candidates, Objective(ceiling=1e-9))
    with pytest.raises(BadRequest, match="No model is cheap enough"):
        await mind.decide(tight)


def test_events_are_read_as_they_were_written() -> None:
    context = np.linspace(-1, 1, 8, dtype=np.float32)
    route = Route("p", "i", "small", "small", context, "eye", {"small": 0.5}, {"small": 0.6}, {})
    shown = Route.from_json("p", "i", route.to_json())
    assert shown.context == pytest.approx(context, abs=1e-3)
    events: list[Event] = [Answered(1.0, 0.1, 5, 3), Looked({"valid": True}, 0.5), Heard("m", -1.0)]
    assert [read(write(event)) for event in events] == events
    for event in route.judged(1):
        assert type(read(write(event))) is type(event)
    assert read({"kind": "of a later version"}) is None


async def unreadable(office: Office, count: int, data: dict[str, object]) -> None:
    async with office.database.write() as connection:
        await connection.execute(sa.insert(lessons), [{"at": 0, "data": data}] * count)


async def test_a_page_of_unreadable_lessons_does_not_end_learning(office: Office) -> None:
    mind = await office.replica()
    await unreadable(office, PAGE + 1, {"kind": "of a later version"})
    await office.answer(mind, "req_1")
    await mind.refresh()
    assert mind.status()["answers"] == 1


async def test_a_lesson_that_nobody_can_learn_from_is_left_out_and_said(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    mind = await office.replica()
    broken = {"kind": "answered", "at": "x", "gain": 0, "tokens": "many", "flagship_tokens": 0}
    await unreadable(office, 1, broken)
    await office.answer(mind, "req_1")
    await mind.refresh()
    assert mind.status()["answers"] == 1
    assert "lesson 1 is left out" in caplog.text


async def test_whatever_goes_wrong_while_reading_learning_goes_on(
    office: Office, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    mind = await office.replica()
    await mind.start()
    since = office.notebook.since
    failures = [ZeroDivisionError("no number")]

    async def shaky(number: int) -> list[tuple[int, Event | None]]:
        if failures:
            raise failures.pop()
        return await since(number)

    monkeypatch.setattr(office.notebook, "since", shaky)
    await office.answer(mind, "req_1")
    async with asyncio.timeout(5):
        while mind.status()["answers"] == 0:
            await office.clock.advance(1.0)
            await asyncio.sleep(0.01)
    assert "no number" in caplog.text
    await mind.aclose()


async def test_what_was_being_read_is_not_folded_into_what_is_imported(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    mind = await office.replica()
    await office.answer(mind, "req_1")
    since, reading, reset = office.notebook.since, asyncio.Event(), asyncio.Event()

    async def slow(number: int) -> list[tuple[int, Event | None]]:
        page = await since(number)
        reading.set()
        await reset.wait()
        return page

    monkeypatch.setattr(office.notebook, "since", slow)
    refreshed = asyncio.create_task(mind.refresh())
    await reading.wait()
    replaced = asyncio.create_task(mind.replace(None))
    await asyncio.sleep(0.05)
    reset.set()
    await asyncio.gather(refreshed, replaced)
    assert mind.status()["answers"] == 0


async def test_decisions_at_once_do_not_explore_for_more_than_the_days_budget(
    office: Office,
) -> None:
    mind = await office.replica()
    wide = replace(QUESTION, explore=1.0, explore_usd=0.02)
    plans = await asyncio.gather(*(mind.decide(wide) for _ in range(20)))
    assert 0.0 < sum(plan.extra_usd for plan in plans) <= 0.02
