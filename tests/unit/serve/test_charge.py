"""Each end of a call, and what it costs."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import pytest

from models.answerer import Answerer, Events
from models.call import Call
from models.errors import (
    BadRequest,
    BudgetExceeded,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    Refused,
    StoreUnavailable,
    Unavailable,
    UpstreamError,
)
from models.fake import FakeModel
from models.messages import (
    Completion,
    Done,
    Image,
    Message,
    Request,
    Sampling,
    TextDelta,
    Usage,
    assistant,
    user,
)
from models.prices import Price
from serve.money import bound
from serve.money.charge import Charge, Tariff
from serve.money.fake import FakeTill
from serve.money.ledger import Entry
from serve.money.till import Hold

PRICE = Price.model_validate({"input": 1, "output": 2})
ASKED = Request("gpt", (user("why?"),), Sampling(max_tokens=1000))
ENTERED = bound.input_tokens(ASKED, 0)
WORST = PRICE.worst(ENTERED, 1000)
CALL = Call(project="p")


@dataclass
class Scripted:
    """Streams these pieces, then fails or says this usage."""

    usage: Usage = field(default_factory=Usage)
    pieces: tuple[str, ...] = ()
    fails: BaseException | None = None

    async def complete(self, request: Request, call: Call) -> Completion:
        if self.fails:
            raise self.fails
        return Completion("gpt", assistant("".join(self.pieces)), usage=self.usage)

    async def stream(self, request: Request, call: Call) -> Events:
        for piece in self.pieces:
            yield TextDelta(piece)
        yield Done(await self.complete(request, call))


@pytest.fixture
def till() -> FakeTill:
    return FakeTill()


def charge(till: FakeTill, inner: Answerer, **tariff: object) -> Charge:
    return Charge(inner, replace(Tariff("gpt", "flagship", PRICE), **tariff), till)


async def read(charge: Charge) -> Completion:
    async with aclosing(charge.stream(ASKED, CALL)) as events:
        async for event in events:
            if isinstance(event, Done):
                return event.completion
    raise AssertionError("no end")


async def test_an_answer_costs_what_it_says_and_shows_it(till: FakeTill) -> None:
    for ask in (
        charge(till, Scripted(Usage(10, 5))).complete(ASKED, CALL),
        read(charge(till, Scripted(Usage(10, 5)))),
    ):
        completion = await ask
        (stage,) = completion.stages
        assert (stage.nano_usd, stage.usage) == (20_000, Usage(10, 5))
        entry = till.settled.pop()
        assert (entry.cost, entry.basis, entry.project, entry.model) == (
            20_000,
            "exact",
            "p",
            "gpt",
        )
    assert till.held == []


async def test_the_worst_case_is_set_aside_first(till: FakeTill) -> None:
    class Looks(Scripted):
        async def complete(self, request: Request, call: Call) -> Completion:
            assert [hold.worst for hold in till.held] == [WORST]
            return await Scripted.complete(self, request, call)

    await charge(till, Looks(Usage(1, 1))).complete(ASKED, CALL)


@pytest.mark.parametrize("error", [BadRequest, Overloaded, Refused, Unavailable, StoreUnavailable])
async def test_what_was_refused_or_never_left_costs_nothing(
    till: FakeTill, error: type[FusionError]
) -> None:
    for ask in (lambda c: c.complete(ASKED, CALL), read):
        with pytest.raises(error):
            await ask(charge(till, Scripted(fails=error("no"))))
    assert [(entry.cost, entry.basis) for entry in till.settled] == [(0, "exact")] * 2


@pytest.mark.parametrize(
    "error", [UpstreamError("?"), DeadlineExceeded("?"), asyncio.CancelledError()]
)
async def test_a_whole_call_whose_end_is_unknown_costs_its_reservation(
    till: FakeTill, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        await charge(till, Scripted(fails=error)).complete(ASKED, CALL)
    assert [(entry.cost, entry.basis) for entry in till.settled] == [(WORST, "estimated")]


async def test_a_cut_stream_costs_its_input_and_what_came(till: FakeTill) -> None:
    with pytest.raises(Unavailable):  # also where its error would mean that nothing was begun
        await read(charge(till, Scripted(pieces=("four", "five!"), fails=Unavailable("?"))))
    expected = PRICE.worst(ENTERED, 9 + bound.SLACK_TOKENS)
    assert [(entry.cost, entry.basis) for entry in till.settled] == [(expected, "estimated")]


async def test_a_reader_who_goes_away_pays_for_what_came(till: FakeTill) -> None:
    async with aclosing(
        charge(till, Scripted(pieces=("four", "five!"))).stream(ASKED, CALL)
    ) as events:
        await anext(events)
    expected = PRICE.worst(ENTERED, 4 + bound.SLACK_TOKENS)
    assert [entry.cost for entry in till.settled] == [expected]


async def test_a_model_that_thinks_unseen_costs_its_reservation_when_cut(till: FakeTill) -> None:
    thinks = Price.model_validate({"input": 1, "output": 2, "reasoning": 2})
    with pytest.raises(UpstreamError):
        await read(charge(till, Scripted(pieces=("x",), fails=UpstreamError("?")), price=thinks))
    assert [entry.cost for entry in till.settled] == [WORST]


@pytest.mark.parametrize("said", [Usage(), Usage(output=0, input=9), Usage(output=7)])
async def test_usage_that_is_missing_is_never_free(till: FakeTill, said: Usage) -> None:
    completion = await charge(till, Scripted(said, pieces=("an answer",))).complete(ASKED, CALL)
    (entry,) = till.settled
    assert entry.basis == "estimated"
    assert entry.usage.input == (said.input or ENTERED)
    assert entry.usage.output >= (said.output or len("an answer"))
    assert 0 < entry.cost <= WORST
    assert completion.stages[0].nano_usd == entry.cost


async def test_usage_that_cannot_be_makes_no_negative_and_no_endless_bill(till: FakeTill) -> None:
    said = Usage(input=10, output=10**30, cached=50, reasoning=-5, cache_written=40)
    await charge(till, Scripted(said)).complete(ASKED, CALL)
    (entry,) = till.settled
    assert entry.usage == Usage(10, 10**9, 10, 0, 0)
    assert 0 < entry.cost < 2**63


async def test_what_is_too_late_or_refused_by_the_till_does_not_leave(till: FakeTill) -> None:
    model = FakeModel()
    with pytest.raises(DeadlineExceeded):
        await charge(till, model).complete(ASKED, replace(CALL, deadline=1.0))
    till.refuse = BudgetExceeded("no")
    with pytest.raises(BudgetExceeded):
        await read(charge(till, model))
    assert (model.calls, till.held, till.settled) == ([], [], [])


async def test_an_unpriced_model_is_booked_without_a_cost(till: FakeTill) -> None:
    completion = await charge(till, FakeModel(reply="a b"), price=None).complete(ASKED, CALL)
    assert completion.stages[0].nano_usd is None
    assert [(entry.nano_usd, entry.usage.output) for entry in till.settled] == [(None, 2)]


LONG = Request("gpt", (user("word " * 1000),), Sampling(max_tokens=10))


class Purse(FakeTill):
    """Has this much left."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    async def reserve(self, entry: Entry, worst: int | None, cap: int | None = None) -> Hold:
        if worst is not None and worst > self.left:
            raise BudgetExceeded("The budget does not allow it.")
        return await super().reserve(entry, worst, cap)


@dataclass
class Tokenizer:
    tokens: int
    fails: FusionError | None = None
    asked: int = 0
    calls: list[Call] = field(default_factory=list)

    async def __call__(self, request: Request, call: Call) -> int:
        self.asked += 1
        self.calls.append(call)
        if self.fails:
            raise self.fails
        return self.tokens


async def paid(left: int, tokenizer: Tokenizer, request: Request = LONG) -> int:
    """What was reserved with so much left."""
    till = Purse(left)
    model = Charge(Scripted(Usage(10, 5)), Tariff("gpt", "workforce", PRICE), till, count=tokenizer)
    bill = await model._opened(request, CALL)
    return bill.hold.worst


async def test_the_tokenizer_is_asked_only_where_the_bytes_are_too_many() -> None:
    tokenizer = Tokenizer(1000)
    by_bytes = PRICE.worst(bound.input_tokens(LONG, 0), 10)
    assert await paid(by_bytes, tokenizer) == by_bytes
    assert tokenizer.asked == 0
    exact = PRICE.worst(1000 + bound.REQUEST_TOKENS, 10)
    assert exact < by_bytes / 4
    assert await paid(exact, tokenizer) == exact
    assert tokenizer.asked == 1
    # It may wake the model, as what asks: for a batch's row no node on demand.
    assert tokenizer.calls == [CALL]


@pytest.mark.parametrize(
    ("tokenizer", "request_"),
    [
        (Tokenizer(1000), LONG),  # also that is more than what is left
        (Tokenizer(1, Unavailable("gone")), LONG),
        (Tokenizer(1), replace(LONG, messages=(Message("user", (Image("https://x/y.png"),)),))),
    ],
)
async def test_what_still_does_not_fit_is_refused(tokenizer: Tokenizer, request_: Request) -> None:
    with pytest.raises(BudgetExceeded):
        await paid(1000, tokenizer, request_)
