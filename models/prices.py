"""What tokens cost: exact integers, never floats.

A price is written as everybody writes it, in US dollars for a million tokens. One such dollar
is 10⁻⁶ USD a token, so with nano-dollars (10⁻⁹ USD) as the unit, tokens x price x 1000 is exact
for every price that has up to three decimal places, and rounded up to a nano-dollar beyond.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from models.messages import Usage

NANO_PER_USD = 1_000_000_000
_FEMTO_PER_NANO = 1_000_000
_FEMTO_PER_MICRO = 1_000_000_000


def _exact(value: Any) -> Any:
    # 0.15 in YAML is a float whose digits are what its author wrote; str() gives those back,
    # where Decimal(0.15) would give the nearest binary fraction.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(str(value))
    if isinstance(value, str):
        try:
            return Decimal(value)
        except InvalidOperation:
            raise ValueError("amounts are US dollars: write the number alone") from None
    return value


# Nine places are a thousandth of what a token of the cheapest model costs.
UsdPerMillion = Annotated[
    Decimal, BeforeValidator(_exact), Field(ge=0, le=1_000_000, decimal_places=9)
]


#: An amount of US dollars, small enough for every sum of such amounts to fit a store's integer.
Usd = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, le=1_000_000_000, decimal_places=9)]


class Rates(NamedTuple):
    """A price in whole numbers: of 10⁻¹⁵ USD a token, so that nine decimal places are exact."""

    input: int
    cached_input: int
    cache_write: int
    output: int
    reasoning: int
    #: Of what is read and of what is written, whatever kind it turns out to be.
    dearest_input: int
    dearest_output: int


class Price(BaseModel):
    """US dollars for a million tokens, each kind of token at its own price.

    `cached_input` (read from the provider's prompt cache) and `cache_write` (written to it)
    default to `input`, `reasoning` to `output`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: UsdPerMillion
    output: UsdPerMillion
    cached_input: UsdPerMillion | None = None
    cache_write: UsdPerMillion | None = None
    reasoning: UsdPerMillion | None = None

    @cached_property
    def rates(self) -> Rates:
        """Every call is priced twice, and whole numbers take a quarter of the time of Decimals."""
        rates = (
            self.input,
            _or(self.cached_input, self.input),
            _or(self.cache_write, self.input),
            self.output,
            _or(self.reasoning, self.output),
        )
        entered, cached, kept, written, thought = (int(rate * _FEMTO_PER_MICRO) for rate in rates)
        dearest = max(entered, cached, kept), max(written, thought)
        return Rates(entered, cached, kept, written, thought, *dearest)

    def cost(self, usage: Usage) -> int:
        """Nano-dollars for these tokens, rounded up."""
        rates = self.rates
        plain_input = usage.input - usage.cached - usage.cache_written
        return _nano(
            plain_input * rates.input
            + usage.cached * rates.cached_input
            + usage.cache_written * rates.cache_write
            + (usage.output - usage.reasoning) * rates.output
            + usage.reasoning * rates.reasoning
        )

    def worst(self, input_tokens: int, output_tokens: int) -> int:
        """The most that this many tokens can cost, whatever kind they turn out to be."""
        rates = self.rates
        return _nano(input_tokens * rates.dearest_input + output_tokens * rates.dearest_output)


def _or(rate: Decimal | None, otherwise: Decimal) -> Decimal:
    return otherwise if rate is None else rate


def _nano(femto: int) -> int:
    """Rounded up: in whole numbers `//` rounds down, so it is negated before and after."""
    return -(-femto // _FEMTO_PER_NANO)


def nano_of(dollars: Decimal) -> int:
    """US dollars as nano-dollars: exact for amounts of up to nine decimal places."""
    return int(dollars * NANO_PER_USD)


def usd(nano: int) -> str:
    """Nano-dollars as a plain decimal string of dollars: `usd(1_500_000) == "0.0015"`."""
    text = f"{Decimal(nano) / NANO_PER_USD:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
