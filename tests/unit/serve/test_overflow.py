"""A hosted model that has no room: waiting, another model, or word of when to come back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from models.answerer import Events
from models.call import Call
from models.catalog import Catalog
from models.errors import Overloaded, StoreUnavailable, Unavailable
from models.fake import FakeModel
from models.messages import Completion, Done, Message, Request, Text, TextDelta
from models.prices import Price
from models.scaling import Fleet as Limits
from models.scaling import Scaling
from models.workforce.names import application_name, hosted
from serve.fleet import Count, Fleet
from serve.overflow import Other, Overflowing

SCALING = {
    "node": {"usd_per_hour": 1.0, "startup_s": 30},
    "replica": {
        "prefill_tokens_per_s": 1000,
        "decode": {"step_base_s": 0.04, "step_per_sequence_s": 0.04, "max_batch": 4},
    },
    "targets": {"ttft_s": 2.0},
}
BATCH = Call(priority="low")
REQUEST = Request("own", (Message("user", (Text("hi"),)),))


@dataclass
class Place:
    """A site, a record and a workforce at once."""

    count_now: Count = field(default_factory=lambda: Count(1, 1))
    pays_in: float = 0.0
    wait: float = 0.0
    missed: int = 0
    counted: list[str] = field(default_factory=list)
    woken: int = 0

    async def replicas(self) -> Count:
        return self.count_now

    async def affords_in_s(self) -> float:
        return self.pays_in

    def wait_s(self, request: Request, call: Call, places: float) -> float:
        return self.wait

    def count(self, *given: Any, **more: Any) -> Any:
        if not more:
            self.counted.append(given[1])
            return None
        self.woken += 1
        return _nothing()


async def _nothing() -> int:
    return 0


def wrapped(
    place: Place,
    other: FakeModel | None = None,
    usd: float = 0.1,
    inner: Any = None,
    **more: Any,
) -> Any:
    price = Price.model_validate({"input": usd, "output": usd})
    return Overflowing(
        "own",
        inner or FakeModel("own", "here"),
        place,
        Scaling.model_validate({**SCALING, **more}),
        place,
        place,
        max_ongoing=4,
        gateways=1,
        others=() if other is None else (Other("remote", other, price),),
    )


async def said(answerer: Any, call: Call | None = None) -> str:
    completion: Completion = await answerer.complete(REQUEST, call or Call())
    return completion.message.text


async def test_who_is_in_time_waits_here() -> None:
    assert await said(wrapped(Place(wait=1.0), FakeModel("remote", "there"))) == "here"


async def test_who_would_be_late_goes_elsewhere_and_says_so() -> None:
    place, remote = Place(wait=5.0), FakeModel("remote", "there")
    answerer = wrapped(place, remote)
    completion = await answerer.complete(REQUEST, Call())
    assert completion.message.text == "there"
    assert completion.extension["spilled_from"] == {"model": "own", "expected_s": 5.0}
    assert remote.calls[0][0].model == "remote"
    events = [event async for event in answerer.stream(REQUEST, Call())]
    assert isinstance(events[-1], Done)
    assert events[-1].completion.extension["spilled_from"]["model"] == "own"
    assert (place.missed, place.counted) == (2, ["spilled", "spilled"])


async def test_a_call_that_costs_more_than_being_late_is_not_made() -> None:
    place = Place(wait=5.0)
    assert await said(wrapped(place, FakeModel("remote", "there"), usd=1000.0)) == "here"


async def test_where_the_other_has_no_room_either_it_waits_here() -> None:
    place, full = Place(wait=5.0), FakeModel("remote", Overloaded("full"))
    answerer = wrapped(place, full)
    assert await said(answerer) == "here"
    events = [event async for event in answerer.stream(REQUEST, Call())]
    assert isinstance(events[-1], Done)


async def test_who_loses_its_replica_and_finds_no_other_is_answered_elsewhere() -> None:
    place, remote = Place(), FakeModel("remote", "there")
    answerer = wrapped(place, remote, inner=FakeModel("own", Unavailable("the node is gone")))
    completion = await answerer.complete(REQUEST, Call())
    assert completion.message.text == "there"
    assert completion.extension["spilled_from"]["model"] == "own"
    events = [event async for event in answerer.stream(REQUEST, Call())]
    assert isinstance(events[-1], Done)
    assert events[-1].completion.message.text == "there"
    assert place.counted == ["spilled", "spilled"]
    with pytest.raises(Unavailable, match="the node is gone"):
        await said(answerer, BATCH)


@pytest.mark.parametrize("usd", [0.1, 1000.0])
async def test_who_is_told_of_the_loss_where_nobody_else_is_worth_it(usd: float) -> None:
    gone = FakeModel("own", Unavailable("the node is gone"))
    other = FakeModel("remote", "there") if usd > 1 else None
    with pytest.raises(Unavailable, match="the node is gone"):
        await said(wrapped(Place(), other, usd=usd, inner=gone))


async def test_our_own_databases_silence_is_nobodys_loss() -> None:
    silent = FakeModel("own", StoreUnavailable("locked"))
    with pytest.raises(StoreUnavailable):
        await said(wrapped(Place(), FakeModel("remote", "there"), inner=silent))


async def test_who_had_begun_to_read_is_told_of_the_loss() -> None:
    class Breaking:
        async def stream(self, request: Request, call: Call) -> Events:
            yield TextDelta("half")
            raise Unavailable("the node is gone")

    answerer = wrapped(Place(), FakeModel("remote", "there"), inner=Breaking())
    events = []
    with pytest.raises(Unavailable):
        async for event in answerer.stream(REQUEST, Call()):
            events.append(event)  # noqa: PERF401  what came before the error counts
    assert events == [TextDelta("half")]


async def test_who_would_wait_for_ever_is_told_when_to_come_back() -> None:
    place = Place(wait=75.0)
    with pytest.raises(Overloaded) as refused:
        await said(wrapped(place))
    assert refused.value.retry_after_s == 73
    assert place.counted == ["shed"]


async def test_at_zero_it_is_woken_and_those_who_may_go_elsewhere_do() -> None:
    place = Place(Count(), wait=0.0)
    assert await said(wrapped(place, FakeModel("remote", "there"))) == "there"
    await said(wrapped(place))
    assert place.woken <= 1


async def test_at_zero_without_another_it_waits_for_the_start() -> None:
    assert await said(wrapped(Place(Count()))) == "here"


async def test_the_budgets_veto_at_zero() -> None:
    place = Place(Count(), pays_in=41.5)
    with pytest.raises(Overloaded, match="budget of all models") as refused:
        await said(wrapped(place))
    assert refused.value.retry_after_s == 42
    assert place.counted == ["vetoed"]
    # Whatever it costs: nobody else answers.
    dear = wrapped(place, FakeModel("remote", "there"), usd=1000.0)
    assert await said(dear) == "there"
    # Batch work has time, and waits for money.
    with pytest.raises(Overloaded):
        await said(dear, BATCH)


async def test_a_veto_that_only_a_larger_budget_ends_says_so() -> None:
    with pytest.raises(Overloaded, match=r"Raise fleet\.usd_per_hour") as refused:
        await said(wrapped(Place(Count(), pays_in=math.inf)))
    assert refused.value.retry_after_s == 600


async def test_nobody_waits_for_batch_work_so_it_does_not_cost_money_elsewhere() -> None:
    place = Place(wait=5.0)
    assert await said(wrapped(place, FakeModel("remote", "there")), BATCH) == "here"
    assert await said(wrapped(place, FakeModel("remote", "there"), usd=0.0), BATCH) == "there"
    asleep = Place(Count())
    assert await said(wrapped(asleep, FakeModel("remote", "there")), BATCH) == "here"


class Now:
    """A clock that stands."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")


def catalog(least: int = 0) -> Catalog:
    model = {"engine": "fake", "replicas": {"min": least, "max": 3}, "scaling": SCALING}
    return Catalog.model_validate(
        {"models": {"a": model, "b": {**model, "reply": "b"}}, "roles": {"judge": "a"}}
    )


async def test_a_model_is_woken_only_where_the_budget_pays_for_it() -> None:
    known, now = catalog(), Now()
    names = {name: application_name(name, spec) for name, spec in hosted(known).items()}

    async def free_in_s(limit: float | None) -> float:
        limits, waiting = Limits(usd_per_hour=limit), {names["a"]: 7.0}
        fleet = Fleet(now, lambda: {names["a"]: Count(1, 2)}, limits, waiting.__getitem__)
        return await fleet.affords_in_s("b", known)

    assert await free_in_s(None) == 0
    assert await free_in_s(3) == 0
    # What waits there is through in 7 s, then it idles for as long as a cold start costs.
    assert await free_in_s(2.5) == 7.0 + 30.0 + 36.0


async def test_nobody_rests_who_has_only_what_it_must_have() -> None:
    known, now = catalog(least=1), Now()
    names = {name: application_name(name, spec) for name, spec in hosted(known).items()}
    fleet = Fleet(now, lambda: {names["a"]: Count(1, 1)}, Limits(usd_per_hour=1.5))
    assert await fleet.affords_in_s("b", known) == math.inf


async def test_two_are_not_woken_with_the_money_of_one() -> None:
    known, now = catalog(), Now()
    fleet = Fleet(now, dict, Limits(usd_per_hour=1))
    assert await fleet.affords_in_s("a", known) == 0
    assert 0 < await fleet.affords_in_s("b", known) < math.inf
    now.at += 60  # it never came: its money is free
    assert await fleet.affords_in_s("b", known) == 0


async def test_what_was_seen_last_holds_while_serve_does_not_answer() -> None:
    now = Now()
    answers: list[Any] = [{"x": Count(2, 2)}]

    def look() -> dict[str, Count]:
        return dict(answers.pop())

    fleet = Fleet(now, look, Limits())
    assert await fleet.count("x") == Count(2, 2)
    now.at += 5
    assert await fleet.count("x") == Count(2, 2)
