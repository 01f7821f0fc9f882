"""A model whose replicas run in several places: where a request goes, and when it moves on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.scaling.placement import OfferHealth
from cluster.scaling.policy import settings_from
from cluster.scaling.values import ModelScaling
from models.answerer import Events
from models.call import Call
from models.errors import FusionError, Overloaded, StoreUnavailable
from models.fake import FakeClock
from models.messages import Completion, Done, Message, Request, Text, TextDelta, Usage, user
from models.scaling import Fleet, Scaling
from serve import places
from serve.fleet import Count, Veto
from serve.places import Placed, choose

SCALING = {
    "node": {
        "usd_per_hour": 1.0,
        "startup_s": 20,
        "labels": {"market": "on-demand"},
        "spot": {
            "usd_per_hour": 0.3,
            "mean_life_s": 7200,
            "notice_s": 30,
            "labels": {"market": "spot"},
        },
    },
    "replica": {
        "prefill_tokens_per_s": 1000,
        "decode": {"step_base_s": 0.04, "step_per_sequence_s": 0.04, "max_batch": 4},
    },
}
FIRM, SPOT = "node/on-demand", "node/spot"
NOBODY: Mapping[str, int] = {}
REQUEST, BATCH = Request("own", (user("hi"),)), Call(priority="low")


def model(floor: float = 0.2) -> ModelScaling:
    scaling = Scaling.model_validate({**SCALING, "on_demand_floor": floor})
    return settings_from(scaling.settings("own", 0, 8, Fleet()))


# -- the choice --------------------------------------------------------------------------------


def chosen(room: Mapping[str, float], under_way: Mapping[str, int] = NOBODY, **more: Any) -> str:
    return choose(model(), room, under_way, more.pop("health", {}), 100.0, **more)


def test_what_runs_and_is_filled_least_is_next() -> None:
    assert chosen({FIRM: 4, SPOT: 8}, {FIRM: 1, SPOT: 4}) == FIRM
    assert chosen({FIRM: 4, SPOT: 8}, {FIRM: 2, SPOT: 4}) == SPOT
    assert chosen({FIRM: 0, SPOT: 8}, {FIRM: 0, SPOT: 99}) == SPOT
    assert chosen({FIRM: 4, SPOT: 8}, {FIRM: 2, SPOT: 4}, full={SPOT}) == FIRM


def test_who_finds_nothing_wakes_what_the_rule_would_order() -> None:
    asleep = {FIRM: 0.0, SPOT: 0.0}
    assert chosen(asleep) == FIRM, "the floor is bought on demand"
    assert choose(model(floor=0.0), asleep, {}, {}, 100.0) == SPOT
    tired = {FIRM: OfferHealth(1, 200.0)}
    assert chosen(asleep, health=tired) == SPOT


def test_batch_work_waits_for_spot_and_takes_only_room_that_is_free() -> None:
    asleep = {FIRM: 0.0, SPOT: 0.0}
    assert chosen(asleep, patient=True) == SPOT
    assert chosen(asleep, patient=True, health={SPOT: OfferHealth(1, 200.0)}) == SPOT
    running = {FIRM: 4.0, SPOT: 0.0}
    assert chosen(running, {FIRM: 3}, patient=True) == FIRM
    assert chosen(running, {FIRM: 4}, patient=True) == SPOT
    assert chosen({FIRM: 4.0, SPOT: 4.0}, {FIRM: 4, SPOT: 40}, patient=True) == SPOT


@given(
    st.fixed_dictionaries({FIRM: st.integers(0, 9), SPOT: st.integers(0, 9)}),
    st.fixed_dictionaries({FIRM: st.integers(0, 40), SPOT: st.integers(0, 40)}),
    st.booleans(),
)
def test_nobody_is_sent_where_nothing_runs_while_something_else_does(
    room: dict[str, int], under_way: dict[str, int], patient: bool
) -> None:
    found = chosen(room, under_way, patient=patient)
    if not patient and any(room.values()):
        assert room[found] > 0


# -- carried out -------------------------------------------------------------------------------


class Place:
    """One place of the model: `held` until it is let go, or an error."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.open = asyncio.Event()
        self.open.set()
        self.error: FusionError | None = None
        self.begun = False
        self.asked = 0
        self.came: list[float | None] = []
        self.left = 0
        self.missed = 0
        self.broken: FusionError | None = None

    def done(self) -> Completion:
        return Completion(self.name, Message("assistant", (Text(self.name),)), "stop", Usage(1, 1))

    async def complete(self, request: Request, call: Call) -> Completion:
        async for event in self.stream(request, call):
            if isinstance(event, Done):
                return event.completion
        raise AssertionError

    async def stream(self, request: Request, call: Call) -> Events:
        self.asked += 1
        self.came.append(call.came)
        try:
            await self.open.wait()
            if self.error is not None:
                raise self.error
            yield TextDelta(self.name)
            if self.broken is not None:
                raise self.broken
            yield Done(self.done())
        except (asyncio.CancelledError, GeneratorExit):
            self.left += 1
            raise

    def is_waiting(self, _: object) -> bool:
        return not self.begun

    async def count(self, request: Request, *, within_s: float) -> int:
        self.asked += 1
        await self.open.wait()
        return len(self.name)


class Scene:
    def __init__(self, **counts: Count) -> None:
        self.clock = FakeClock(1000.0)
        self.counts = {FIRM: counts.get("firm", Count()), SPOT: counts.get("spot", Count())}
        self.firm, self.spot = Place("firm"), Place("spot")
        here: Any = {FIRM: self.firm, SPOT: self.spot}
        self.vetoed: dict[str, Veto] = {}
        self.placed = Placed(here, model(), self.look, self.veto, self.clock, room_of_one=4.0)

    async def veto(self, place: str) -> Veto | None:
        return self.vetoed.get(place)

    async def look(self) -> dict[str, Count]:
        return self.counts

    async def said(self, call: Call | None = None, *, stream: bool = False) -> str:
        call = call or Call()
        if not stream:
            return (await self.placed.complete(REQUEST, call)).message.text
        events = [event async for event in self.placed.stream(REQUEST, call)]
        return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "LOOK_S", 0.005)


both = pytest.mark.parametrize("stream", [False, True])


@both
async def test_who_waits_where_nothing_runs_moves_to_what_comes_up_first(stream: bool) -> None:
    scene = Scene()
    scene.firm.open.clear()
    asked = asyncio.create_task(scene.said(stream=stream))
    await asyncio.sleep(0.02)
    assert (scene.firm.asked, scene.spot.asked) == (1, 0)
    await scene.clock.advance(5)
    scene.counts[SPOT] = Count(1, 1)
    assert await asyncio.wait_for(asked, 2) == "spot"
    assert scene.firm.left == 1, "its place there is given up"
    assert scene.firm.came == scene.spot.came == [1000.0], "it keeps its age"


@both
async def test_a_place_that_does_not_come_up_is_left_for_the_next(stream: bool) -> None:
    scene = Scene()
    scene.firm.open.clear()
    asked = asyncio.create_task(scene.said(stream=stream))
    await asyncio.sleep(0.02)
    assert scene.spot.asked == 0
    await scene.clock.advance(61)  # three start-up times
    assert await asyncio.wait_for(asked, 2) == "spot"
    # And it is left alone by those who come now, until its time is over.
    assert await scene.said() == "spot"
    await scene.clock.advance(21)
    scene.firm.open.set()
    assert await scene.said() == "firm"


async def test_who_may_be_at_work_is_not_asked_twice() -> None:
    scene = Scene(firm=Count(1, 1))
    scene.firm.open.clear()
    scene.firm.begun = True
    asked = asyncio.create_task(scene.said())
    await asyncio.sleep(0.02)
    # It is called off, and ends what it has begun.
    scene.counts = {FIRM: Count(), SPOT: Count(1, 1)}
    await asyncio.sleep(0.05)
    assert scene.spot.asked == 0
    scene.firm.open.set()
    assert await asyncio.wait_for(asked, 2) == "firm"


@both
async def test_a_place_that_is_full_sends_on_to_the_other(stream: bool) -> None:
    scene = Scene(firm=Count(1, 1), spot=Count(1, 1))
    scene.firm.error = Overloaded("full", retry_after_s=1)
    assert [await scene.said(stream=stream) for _ in range(3)] == ["spot"] * 3
    scene.spot.error = Overloaded("full", retry_after_s=1)
    with pytest.raises(Overloaded):
        await scene.said(stream=stream)


@both
async def test_batch_work_that_waits_for_spot_goes_where_room_becomes_free(stream: bool) -> None:
    scene = Scene()
    scene.spot.open.clear()
    asked = asyncio.create_task(scene.said(BATCH, stream=stream))
    await asyncio.sleep(0.02)
    assert (scene.firm.asked, scene.spot.asked) == (0, 1)
    await scene.clock.advance(500)  # no node is bought on demand for it
    await asyncio.sleep(0.02)
    assert scene.firm.asked == 0
    scene.counts[FIRM] = Count(1, 1)
    assert await asyncio.wait_for(asked, 2) == "firm"


@both
async def test_who_hangs_up_leaves_its_place(stream: bool) -> None:
    scene = Scene(firm=Count(1, 1))
    scene.firm.open.clear()
    asked = asyncio.create_task(scene.said(stream=stream))
    await asyncio.sleep(0.02)
    asked.cancel()
    with suppress(asyncio.CancelledError):
        await asked
    assert scene.firm.left == 1


async def test_who_waits_in_a_full_place_goes_to_one_that_has_come_up() -> None:
    scene = Scene(firm=Count(1, 1))
    scene.firm.open.clear()
    asked = [asyncio.create_task(scene.said()) for _ in range(10)]
    await asyncio.sleep(0.02)
    assert (scene.firm.asked, scene.spot.asked) == (10, 0)
    scene.spot.open.clear()
    scene.counts[SPOT] = Count(1, 1)
    await asyncio.sleep(0.1)
    assert scene.spot.asked == 4, "as many as find room there at once"
    scene.firm.open.set()
    scene.spot.open.set()
    assert sorted(await asyncio.gather(*asked)) == ["firm"] * 6 + ["spot"] * 4


async def test_a_stream_that_has_begun_is_not_read_again_elsewhere() -> None:
    scene = Scene(firm=Count(1, 1), spot=Count(1, 1))
    scene.firm.broken = scene.spot.broken = Overloaded("in the middle", retry_after_s=1)
    with pytest.raises(Overloaded):
        await scene.said(stream=True)
    assert scene.firm.asked + scene.spot.asked == 1


@both
async def test_no_place_is_woken_that_the_budget_does_not_pay_for(stream: bool) -> None:
    scene = Scene()
    scene.vetoed = {SPOT: Veto(41.5, "It may in 42 s."), FIRM: Veto(9.0, "It may in 9 s.")}
    with pytest.raises(Overloaded, match=r"node/on-demand now\. It may in 9 s") as refused:
        await scene.said(stream=stream)
    assert refused.value.retry_after_s == 9
    # What runs is paid for, and batch work waits there where it may not be on spot.
    scene.counts[FIRM] = Count(1, 1)
    scene.firm.open.clear()
    asked = [asyncio.create_task(scene.said(BATCH, stream=stream)) for _ in range(6)]
    await asyncio.sleep(0.05)
    assert (scene.firm.asked, scene.spot.asked) == (6, 0)
    scene.firm.open.set()
    assert await asyncio.gather(*asked) == ["firm"] * 6


async def test_a_store_that_is_silent_ends_nothing_that_is_under_way() -> None:
    scene = Scene(firm=Count(1, 1))
    scene.firm.open.clear()
    asked = [asyncio.create_task(scene.said(BATCH)) for _ in range(4)]
    await asyncio.sleep(0.02)

    async def silent(place: str) -> Veto | None:
        raise StoreUnavailable("it does not answer")

    scene.placed._veto = silent
    await asyncio.sleep(0.05)
    scene.counts[FIRM] = Count()
    await asyncio.sleep(0.05)
    scene.firm.open.set()
    assert await asyncio.gather(*asked) == ["firm"] * 4


async def test_who_only_counts_makes_no_place_look_as_if_it_did_not_come_up() -> None:
    scene = Scene()
    await scene.placed.count(REQUEST)
    await scene.clock.advance(3600)
    await scene.said()
    assert (scene.firm.asked, scene.spot.asked) == (2, 0)


async def test_batch_work_that_wakes_a_model_wakes_spot() -> None:
    scene = Scene()
    assert await scene.placed.count(REQUEST, BATCH) == len("spot")


async def test_what_went_elsewhere_is_told_where_the_next_request_goes() -> None:
    scene = Scene(spot=Count(1, 1))
    scene.placed.missed += 3
    await scene.said()
    assert (scene.spot.missed, scene.firm.missed, scene.placed.missed) == (3, 0, 0)


async def test_its_tokens_are_counted_where_it_would_go() -> None:
    assert await Scene(spot=Count(1, 1)).placed.count(REQUEST) == len("spot")
