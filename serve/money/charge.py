"""Pays for each call to a model: reserves its worst case, settles to its true cost. Innermost.

    how a call ends                        what it costs
    an answer that says what it used       that, exactly
    an answer that does not                at most what its text can have been (estimated)
    refused, or it never left              nothing
    a stream that was cut off              its whole input and what came of its output (estimated)
    anything else                          all that was reserved (estimated)

A model with a price for `reasoning` thinks out of sight, so of a stream that was cut off nobody
knows how much it wrote: that costs all that was reserved too.

A prompt is bounded by its bytes, which takes microseconds. Where that much is refused, the model's
own tokenizer is asked, if there is one: most prompts have a quarter as many tokens.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from models.answerer import Answerer, Clock, Events, SystemClock
from models.call import Call, new_id
from models.errors import UNPAID, BudgetExceeded, FusionError
from models.messages import Completion, Done, Request, Stage, Usage
from models.prices import Price
from models.values import changed
from serve.money import bound
from serve.money.ledger import Entry, opened
from serve.money.till import Hold, Payer

#: No answer has more; at the dearest price that a catalog takes they fit a store's integer.
_MOST_TOKENS = 10**9


@dataclass(frozen=True, slots=True)
class Tariff:
    """What bounds and prices the calls of one model of the catalog."""

    model: str
    tier: str
    price: Price | None
    #: The longest answer, where a request does not say.
    max_output: int = 1024
    #: The most tokens that one picture counts for.
    image_tokens: int = 16384

    @property
    def thinks_unseen(self) -> bool:
        return self.price is not None and self.price.reasoning is not None


#: The tokens of what a model would read, by its own tokenizer. The call is who asks.
Count = Callable[[Request, Call], Awaitable[int]]


class Charge:
    """`inner`, each of whose calls is reserved and settled in `till`. Puts a `Stage` on every
    completion that passes; without a price its cost is unknown. `count` is the model's own
    tokenizer, where it has one that can be asked."""

    def __init__(
        self,
        inner: Answerer,
        tariff: Tariff,
        till: Payer,
        clock: Clock | None = None,
        *,
        count: Count | None = None,
    ) -> None:
        self._inner = inner
        self._tariff = tariff
        self._till = till
        self._clock = clock or SystemClock()
        self._count = count

    async def complete(self, request: Request, call: Call) -> Completion:
        bill = await self._opened(request, call)
        try:
            completion = await self._inner.complete(request, call)
        except BaseException as error:
            bill.broke(error)
            raise
        return bill.paid(completion)

    async def stream(self, request: Request, call: Call) -> Events:
        bill = await self._opened(request, call)
        try:
            async with aclosing(self._inner.stream(request, call)) as events:
                async for event in events:
                    if isinstance(event, Done):
                        event = Done(bill.paid(event.completion))
                    else:
                        bill.received += bound.received_tokens(event)
                    yield event
        except BaseException as error:
            bill.broke(error, streamed=True)
            raise
        bill.broke(None, streamed=True)

    async def _opened(self, request: Request, call: Call) -> _Bill:
        start, tariff = self._clock.now(), self._tariff
        # What is too late already does not leave, and must not look as if it had.
        call.remaining_s(start)
        entered = bound.input_tokens(request, tariff.image_tokens)
        output = request.sampling.max_tokens or tariff.max_output
        entry = opened(call, new_id("led"), tariff.model, tariff.tier, start)
        cap = call.cost_cap_nano_usd
        try:
            hold = await self._till.reserve(entry, self._worst(entered, output), cap)
        except BudgetExceeded as refused:
            exact = await self._counted(request, call)
            if exact is None or exact >= entered:
                raise
            entered = exact
            try:
                hold = await self._till.reserve(entry, self._worst(entered, output), cap)
            except BudgetExceeded as still:
                raise still from refused
        return _Bill(tariff, self._till, hold, self._clock, entered, output)

    def _worst(self, entered: int, output: int) -> int | None:
        price = self._tariff.price
        return None if price is None else price.worst(entered, output)

    async def _counted(self, request: Request, call: Call) -> int | None:
        """The most tokens of the prompt, as its tokenizer counts; None where nobody can say."""
        if self._count is None or self._tariff.price is None or bound.has_images(request):
            return None
        try:
            return bound.REQUEST_TOKENS + await self._count(request, call)
        except FusionError:
            return None


@dataclass(slots=True)
class _Bill:
    """One call on its way. The first thing that is said about its end counts."""

    tariff: Tariff
    till: Payer
    hold: Hold
    clock: Clock
    #: The most tokens that it sends, and may get.
    entered: int
    output: int
    #: The most tokens that came so far.
    received: int = 0
    _over: bool = False

    def paid(self, completion: Completion) -> Completion:
        """The completion with its stage on it."""
        used = _sane(completion.usage)
        said = bool(completion.message.content or completion.message.tool_calls)
        exact = used.input > 0 and (used.output > 0 or not said)
        if not exact:
            most = bound.answered(completion, self.entered, self.output)
            used = changed(used, input=used.input or most.input, output=used.output or most.output)
        entry = self._settled(used, exact=exact)
        stage = Stage(
            role=entry.role,
            model=completion.model,
            usage=used,
            seconds=self.clock.now() - entry.at,
            nano_usd=entry.nano_usd,
        )
        return changed(completion, usage=used, stages=(*completion.stages, stage))

    def broke(self, error: BaseException | None, *, streamed: bool = False) -> None:
        """No answer came, or not all of it."""
        if self._over:
            return
        if isinstance(error, UNPAID) and not self.received:
            self._settled(Usage(), exact=True)
        elif streamed and not self.tariff.thinks_unseen:
            written = min(self.received + bound.SLACK_TOKENS, self.output)
            self._settled(Usage(self.entered, written), exact=False)
        else:
            self._settled(Usage(self.entered, self.output), exact=False)

    def _settled(self, used: Usage, *, exact: bool) -> Entry:
        price, cost = self.tariff.price, None
        if price is not None:
            # Of an estimate not even the kinds of its tokens are known.
            cost = price.cost(used) if exact else price.worst(used.input, used.output)
        entry = changed(
            self.hold.entry, usage=used, nano_usd=cost, basis="exact" if exact else "estimated"
        )
        if not self._over:
            self._over = True
            self.till.settle(self.hold, entry)
        return entry


def _sane(used: Usage) -> Usage:
    """What a provider says that it counted, as far as it can be: no bill is negative, and none
    passes what a store can hold."""
    if (
        used.input <= _MOST_TOKENS
        and used.output <= _MOST_TOKENS
        and used.cached >= 0
        and 0 <= used.cache_written <= used.input - used.cached
        and 0 <= used.reasoning <= used.output
    ):
        return used
    entered, written = (max(0, min(n, _MOST_TOKENS)) for n in (used.input, used.output))
    cached = max(0, min(used.cached, entered))
    return Usage(
        entered,
        written,
        cached,
        max(0, min(used.reasoning, written)),
        max(0, min(used.cache_written, entered - cached)),
    )
