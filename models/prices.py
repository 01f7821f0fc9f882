"""What tokens cost: exact integers, never floats.

A price is written as everybody writes it, in US dollars for a million tokens. One such dollar
is 10⁻⁶ USD a token, so with nano-dollars (10⁻⁹ USD) as the unit, tokens x price x 1000 is exact
for every price that has up to three decimal places, and rounded up to a nano-dollar beyond.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from models.messages import Usage

NANO_PER_USD = 1_000_000_000


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


# Nine places are a thousandth of what a token of the cheapest model costs; together with the
# upper bound they keep every product inside Decimal's 28 digits, where it is exact.
UsdPerMillion = Annotated[
    Decimal, BeforeValidator(_exact), Field(ge=0, le=1_000_000, decimal_places=9)
]


#: An amount of US dollars, small enough for every sum of such amounts to fit a store's integer.
Usd = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, le=1_000_000_000, decimal_places=9)]


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

    def cost(self, usage: Usage) -> int:
        """Nano-dollars for these tokens, rounded up."""
        plain_input = usage.input - usage.cached - usage.cache_written
        return _nano(
            plain_input * self.input
            + usage.cached * _or(self.cached_input, self.input)
            + usage.cache_written * _or(self.cache_write, self.input)
            + (usage.output - usage.reasoning) * self.output
            + usage.reasoning * _or(self.reasoning, self.output)
        )

    def worst(self, input_tokens: int, output_tokens: int) -> int:
        """The most that this many tokens can cost, whatever kind they turn out to be."""
        dearest_input = max(
            self.input, _or(self.cached_input, self.input), _or(self.cache_write, self.input)
        )
        dearest_output = max(self.output, _or(self.reasoning, self.output))
        return _nano(input_tokens * dearest_input + output_tokens * dearest_output)


def _or(rate: Decimal | None, otherwise: Decimal) -> Decimal:
    return otherwise if rate is None else rate


def _nano(usd_millionths: Decimal) -> int:
    return int((usd_millionths * 1000).to_integral_value(rounding=ROUND_CEILING))


def nano_of(dollars: Decimal) -> int:
    """US dollars as nano-dollars: exact for amounts of up to nine decimal places."""
    return int(dollars * NANO_PER_USD)


def usd(nano: int) -> str:
    """Nano-dollars as a plain decimal string of dollars: `usd(1_500_000) == "0.0015"`."""
    text = f"{Decimal(nano) / NANO_PER_USD:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
