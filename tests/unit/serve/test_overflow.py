"""A hosted model that has no room: waiting, another model, or word of when to come back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from models.answerer import Events
from models.call import Call
from models.catalog import Catalog
from models.errors import (
    AccountRefused,
    AnswerDenied,
    BudgetExceeded,
    ContextTooLong,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    StoreUnavailable,
    Unavailable,
    Unsupported,
    UpstreamError,
)
from models.fake import FakeModel
from models.messages import Completion, Done, Message, Request, Text, TextDelta
from models.prices import Price
from models.scaling import FIRST, Scaling
from models.scaling import Fleet as Limits
from models.workforce.names import application_name, hosted
from serve.fleet import Count, Fleet, Veto
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
    refused: Veto | None = None
    wait: float = 0.0
    missed: int = 0
    counted: list[str] = field(default_factory=list)
    woken: int = 0

    async def replicas(self) -> Count:
        return self.count_now

    async def veto(self, place: str) -> Veto | None:
        assert place == FIRST
        return self.refused

    def wakes(self, call: Call) -> str:
        return FIRST

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
    others: tuple[Other, ...] = (),
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
        others=others if other is None else (Other("remote", other, price),),
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
    # They did not go elsewhere, so the scaling rule sees each of them once.
    assert (place.missed, place.counted) == (0, [])


@pytest.mark.parametrize(
    "failure",
    [
        Unavailable("breaker open"),
        AccountRefused("key refused"),
        UpstreamError("500"),
        DeadlineExceeded("slow"),
        ContextTooLong("window"),
        Unsupported("no tools"),
        BudgetExceeded("above the cap"),
    ],
)
async def test_where_the_other_fails_for_its_own_reasons_it_waits_here(
    failure: FusionError,
) -> None:
    place, failing = Place(wait=5.0), FakeModel("remote", failure)
    answerer = wrapped(place, failing)
    assert await said(answerer) == "here"
    events = [event async for event in answerer.stream(REQUEST, Call())]
    assert isinstance(events[-1], Done)
    assert events[-1].completion.message.text == "here"
    assert len(failing.calls) == 2
    assert (place.missed, place.counted) == (0, [])


@pytest.mark.parametrize("met", [StoreUnavailable("locked"), AnswerDenied("not that")])
async def test_what_it_would_meet_here_too_is_told_and_not_waited_for(met: FusionError) -> None:
    answerer = wrapped(Place(wait=5.0), FakeModel("remote", met))
    with pytest.raises(type(met)):
        await said(answerer)
    with pytest.raises(type(met)):
        async for _ in answerer.stream(REQUEST, Call()):
            pass


async def test_where_nobody_takes_it_and_it_may_not_wait_it_is_told_when_to_come_back() -> None:
    failing = FakeModel("remote", UpstreamError("500"))
    asleep = Place(Count(), refused=Veto(41.5, "It may in 42 s."))
    with pytest.raises(Overloaded, match="It may in 42 s") as refused:
        await said(wrapped(asleep, failing))
    assert (refused.value.retry_after_s, asleep.counted) == (42, ["vetoed"])
    full = Place(wait=75.0)
    with pytest.raises(Overloaded, match="75 s of work") as refused:
        await said(wrapped(full, failing))
    assert (refused.value.retry_after_s, full.counted) == (73, ["shed"])


async def test_where_the_cheapest_does_not_take_it_the_next_that_is_worth_it_does() -> None:
    place, full = Place(wait=5.0), FakeModel("full", Overloaded("full"))
    prices = {"dear": 1000.0, "second": 0.2, "full": 0.1}
    models = {
        "full": full,
        "second": FakeModel("second", "second"),
        "dear": FakeModel("dear", "dear"),
    }
    others = tuple(
        Other(name, models[name], Price.model_validate({"input": usd, "output": usd}))
        for name, usd in prices.items()
    )
    answerer = wrapped(place, others=others)
    assert await said(answerer) == "second"
    events = [event async for event in answerer.stream(REQUEST, Call())]
    assert isinstance(events[-1], Done)
    assert events[-1].completion.message.text == "second"
    assert (len(full.calls), models["dear"].calls) == (2, [])
    # A rescue goes the same way.
    gone = FakeModel("own", Unavailable("the node is gone"))
    assert await said(wrapped(Place(), inner=gone, others=others)) == "second"


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
    place = Place(Count(), refused=Veto(41.5, "It may in 42 s."))
    with pytest.raises(Overloaded, match=r"budget of all models .* It may in 42 s\.") as refused:
        await said(wrapped(place))
    assert refused.value.retry_after_s == 42
    assert place.counted == ["vetoed"]
    # Whatever it costs: nobody else answers.
    dear = wrapped(place, FakeModel("remote", "there"), usd=1000.0)
    assert await said(dear) == "there"
    # Batch work has time, and waits for money.
    with pytest.raises(Overloaded):
        await said(dear, BATCH)


async def test_nobody_waits_for_batch_work_so_it_does_not_cost_money_elsewhere() -> None:
    place = Place(wait=5.0)
    assert await said(wrapped(place, FakeModel("remote", "there")), BATCH) == "here"
    assert await said(wrapped(place, FakeModel("remote", "there"), usd=0.0), BATCH) == "there"
    asleep = Place(Count())
    assert await said(wrapped(asleep, FakeModel("remote", "there")), BATCH) == "here"


class Now:
    """A clock that stands."""

    def __init__(self, at: float = 100.0) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")


def catalog(least: int = 0) -> Catalog:
    model = {"engine": "fake", "replicas": {"min": least, "max": 3}, "scaling": SCALING}
    return Catalog.model_validate(
        {"models": {"a": model, "b": {**model, "reply": "b"}}, "roles": {"judge": "a"}}
    )


async def spent_nothing(_: Collection[str]) -> int:
    return 0


def fleet_of(
    now: Now,
    limits: Limits,
    runs: Mapping[str, Count] | None = None,
    spent_usd: float = 0.0,
    waits_s: float = 0.0,
    least: int = 0,
) -> tuple[Fleet, Catalog]:
    known = catalog(least)
    names = {name: application_name(name, spec) for name, spec in hosted(known).items()}
    seen = {names[name]: {FIRST: count} for name, count in (runs or {}).items()}

    async def spent_today(models: Collection[str]) -> int:
        assert sorted(models) == ["a", "b"]
        return round(spent_usd * 10**9)

    return Fleet(now, lambda: seen, limits, spent_today, lambda _: waits_s), known


async def test_a_model_is_woken_only_where_the_hour_pays_for_it() -> None:
    async def refused(limit: float | None) -> Veto | None:
        fleet, known = fleet_of(Now(), Limits(usd_per_hour=limit), {"a": Count(1, 2)}, waits_s=7)
        return await fleet.veto("b", known)

    assert await refused(None) is None
    assert await refused(3) is None
    # What waits there is through in 7 s, then it idles for as long as a cold start costs.
    assert await refused(2.5) == Veto(
        7.0 + 30.0 + 36.0, "Another model may rest in 73 s; or raise fleet.usd_per_hour."
    )


async def test_nobody_rests_who_has_only_what_it_must_have() -> None:
    fleet, known = fleet_of(Now(), Limits(usd_per_hour=1.5), {"a": Count(1, 1)}, least=1)
    found = await fleet.veto("b", known)
    assert found == Veto(600.0, "Raise fleet.usd_per_hour: no other model is about to rest.")


@pytest.mark.parametrize(
    ("left_s", "spent", "wait_s"),
    [
        (50_000.0, 4.0, None),  # a dollar is left: an hour is paid for
        (50_000.0, 4.5, 50_000.0 - 1800.0),  # half an hour is: before midnight
        (1_700.0, 4.5, None),  # and now that is all of the day
        (50_000.0, 5.5, 50_000.0),  # nothing is
        (50_000.0, 0.0, None),
    ],
)
async def test_a_days_money_that_is_spent_wakes_nobody_until_it_pays_again(
    left_s: float, spent: float, wait_s: float | None
) -> None:
    now = Now(10 * 86_400 - left_s)
    fleet, known = fleet_of(now, Limits(usd_per_hour=9, usd_per_day=5), spent_usd=spent)
    found = await fleet.veto("b", known)
    assert (None if found is None else found.wait_s) == wait_s
    if found is not None:
        assert f"{max(0, 5 - spent):.2f} dollars are left of this UTC day" in found.why
        assert "raise fleet.usd_per_day" in found.why


async def test_a_day_that_pays_for_one_waits_for_the_others_rest_or_for_midnight() -> None:
    limits, runs = Limits(usd_per_day=5), {"a": Count(1, 1)}
    fleet, known = fleet_of(Now(40_000), limits, runs, spent_usd=3.5)
    found = await fleet.veto("b", known)
    assert found is not None
    assert found.wait_s == 30.0 + 36.0
    # Both for three quarters of an hour: that is paid for before the other would rest.
    fleet, known = fleet_of(Now(86_400 - 2_710), limits, runs, spent_usd=3.5)
    found = await fleet.veto("b", known)
    assert found is not None
    assert found.wait_s == 10.0


async def test_two_are_not_woken_with_the_money_of_one() -> None:
    now = Now()
    fleet, known = fleet_of(now, Limits(usd_per_hour=1))
    assert await fleet.veto("a", known) is None
    assert await fleet.veto("b", known) is not None
    now.at += 60  # it never came: its money is free
    assert await fleet.veto("b", known) is None


async def test_what_was_seen_last_holds_while_serve_does_not_answer() -> None:
    now = Now()
    answers: list[Any] = [{"x": {FIRST: Count(1, 1), "node/spot": Count(1, 1)}}]

    def look() -> dict[str, dict[str, Count]]:
        return dict(answers.pop())

    fleet = Fleet(now, look, Limits(), spent_nothing)
    assert await fleet.count("x") == Count(2, 2)
    now.at += 5
    assert await fleet.count("x") == Count(2, 2)


def in_two_places() -> Catalog:
    spot = {"usd_per_hour": 0.3, "mean_life_s": 7200, "notice_s": 30, "labels": {"market": "spot"}}
    node = {**SCALING["node"], "labels": {"market": "on-demand"}, "spot": spot}
    own = {"engine": "fake", "replicas": {"min": 0, "max": 4}, "scaling": {**SCALING, "node": node}}
    return Catalog.model_validate({"models": {"a": own}, "roles": {"judge": "a"}})


async def test_each_place_is_woken_at_its_own_price() -> None:
    known = in_two_places()
    mine = application_name("a", hosted(known)["a"])

    async def refused(limit: float, place: str, **runs: Count) -> bool:
        seen = {mine: {key.replace("_", "/"): count for key, count in runs.items()}}
        fleet = Fleet(Now(), lambda: seen, Limits(usd_per_hour=limit), spent_nothing)
        return await fleet.veto("a", known, place) is not None

    assert not await refused(1.0, "node/spot")
    assert not await refused(1.0, FIRST)
    assert await refused(0.9, FIRST)
    assert not await refused(0.9, "gone/spot"), "of a catalog that is no more in force"
    both = {"node_spot": Count(3, 3)}
    assert await refused(1.8, FIRST, **both)
    assert not await refused(1.9, FIRST, **both)
    assert await refused(0.8, "node/spot", **{"node_spot": Count(), "node_on-demand": Count(1, 1)})


async def test_a_long_prompt_has_less_time_to_wait() -> None:
    place, other = Place(wait=1.0), FakeModel("remote", "there")
    assert await said(wrapped(place, other)) == "here"
    # A thousand tokens a second: 1.5 of its 2 seconds go by while it is read.
    long = replace(REQUEST, messages=(Message("user", (Text("word " * 1_500),)),))
    answer = await wrapped(place, other).complete(long, Call())
    assert answer.message.text == "there"


async def test_while_a_model_is_replaced_both_of_its_applications_cost() -> None:
    known = catalog()
    mine = application_name("a", hosted(known)["a"])
    was = hosted(known)["a"].model_copy(update={"max_ongoing": 7})
    before = application_name("a", was)

    async def refused(limit: float, seen: Mapping[str, Mapping[str, Count]]) -> bool:
        fleet = Fleet(Now(), lambda: seen, Limits(usd_per_hour=limit), spent_nothing)
        return await fleet.veto("b", known) is not None

    both = {mine: {FIRST: Count(1, 1)}, before: {FIRST: Count(1, 1)}}
    assert await refused(2.0, both)
    assert not await refused(3.0, both)
    # In a place that the model has no more it costs what the dearest does.
    assert await refused(1.0, {before: {"gone/spot": Count(1, 1)}})
    assert not await refused(1.0, {"model-c-0f0f0f0f": {FIRST: Count(1, 1)}, "fusion": {}})
