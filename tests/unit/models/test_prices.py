from __future__ import annotations

import math
import pickle
from decimal import ROUND_CEILING, Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.messages import Usage
from models.prices import NANO_PER_USD, Price, usd


def price(**keys: Any) -> Price:
    return Price.model_validate(keys)


def test_a_price_is_dollars_for_a_million_tokens() -> None:
    assert price(input=0.15, output=0.6).cost(Usage(input=1_000_000)) == 150_000_000
    assert usd(price(input=0.15, output=0.6).cost(Usage(input=1_000_000))) == "0.15"


def test_what_yaml_says_is_meant_in_its_digits() -> None:
    # 0.1 + 0.2 in binary fractions would make one nano-dollar too much after rounding up.
    assert price(input=0.1, output=0.2).cost(Usage(input=10, output=10)) == 3000
    assert price(input="0.1", output=2) == price(input=0.1, output=Decimal(2))


def test_the_smallest_part_of_a_nano_dollar_is_rounded_up() -> None:
    assert price(input=0.0001, output=0).cost(Usage(input=1)) == 1
    assert price(input=0.0001, output=0).cost(Usage(input=10)) == 1
    assert price(input=0.0001, output=0).cost(Usage(input=11)) == 2


def test_rounding_up_sees_a_remainder_of_any_size() -> None:
    assert price(input=1, output="0.000000001").cost(Usage(input=1, output=1)) == 1001


def test_a_price_has_at_most_nine_places_so_that_every_cost_is_exact() -> None:
    with pytest.raises(ValidationError, match="9 decimal places"):
        price(input=1, output="1e-30")


def test_nothing_costs_nothing() -> None:
    assert price(input=3, output=15).cost(Usage()) == 0
    assert price(input=0, output=0).cost(Usage(input=10**9, output=10**9)) == 0


def test_cached_tokens_are_part_of_the_input_and_have_their_own_price() -> None:
    usage = Usage(input=100, cached=40)
    assert price(input=2, output=0, cached_input=0.5).cost(usage) == (60 * 2000 + 40 * 500)
    assert price(input=2, output=0).cost(usage) == 100 * 2000


def test_reasoning_is_part_of_the_output_and_not_paid_twice() -> None:
    assert price(input=0, output=10).cost(Usage(output=50, reasoning=30)) == 50 * 10_000


@pytest.mark.parametrize("bad", [-1, 1_000_001, "free", math.nan, math.inf, None, [1], True])
def test_what_is_no_price(bad: Any) -> None:
    with pytest.raises(ValidationError):
        price(input=bad, output=1)


_RATES = st.decimals(0, 1_000_000, places=9) | st.floats(0, 1_000_000).map(lambda x: round(x, 9))
_TOKENS = st.integers(0, 10**9)


@given(_RATES, _RATES, _RATES | st.none(), _TOKENS, _TOKENS, _TOKENS)
def test_the_cost_is_the_exact_sum_rounded_up(
    into: Decimal, out: Decimal, cached_into: Decimal | None, fresh: int, cached: int, output: int
) -> None:
    usage = Usage(input=fresh + cached, cached=cached, output=output)
    exact = [
        Fraction(str(rate)) * 1000
        for rate in (into, into if cached_into is None else cached_into, out)
    ]
    cost = price(input=into, output=out, cached_input=cached_into).cost(usage)
    assert cost == math.ceil(fresh * exact[0] + cached * exact[1] + output * exact[2])


@given(_RATES, _TOKENS, _TOKENS)
def test_one_bill_is_never_more_than_its_parts(rate: Decimal, one: int, two: int) -> None:
    rates = price(input=rate, output=0)
    parts = rates.cost(Usage(input=one)) + rates.cost(Usage(input=two))
    assert parts - 1 <= rates.cost(Usage(input=one + two)) <= parts


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (1_500_000, "0.0015"),
        (NANO_PER_USD, "1"),
        (100 * NANO_PER_USD, "100"),
        (-250_000_000, "-0.25"),
    ],
)
def test_dollars_as_plain_text(nano: int, text: str) -> None:
    assert usd(nano) == text


@given(st.integers(-(10**24), 10**24))
def test_dollars_lose_no_digit(nano: int) -> None:
    text = usd(nano)
    assert Fraction(text) * NANO_PER_USD == nano
    assert "e" not in text.lower()


def test_each_kind_of_token_has_its_own_price() -> None:
    rates = price(input=3, output=15, cached_input="0.3", cache_write="3.75", reasoning=10)
    used = Usage(input=1000, output=100, cached=600, cache_written=300, reasoning=40)
    expected = 100 * 3000 + 600 * 300 + 300 * 3750 + 60 * 15_000 + 40 * 10_000
    assert rates.cost(used) == expected


def test_a_kind_without_a_price_costs_what_its_whole_costs() -> None:
    used = Usage(input=10, output=4, cached=3, cache_written=2, reasoning=4)
    assert price(input=3, output=15).cost(used) == 10 * 3000 + 4 * 15_000


@given(
    st.tuples(_RATES, _RATES, _RATES, _RATES, _RATES),
    st.tuples(_TOKENS, _TOKENS, _TOKENS),
    st.tuples(_TOKENS, _TOKENS),
)
def test_no_call_costs_more_than_its_worst(
    rates: tuple[Decimal, ...], entered: tuple[int, ...], written: tuple[int, ...]
) -> None:
    names = ("input", "output", "cached_input", "cache_write", "reasoning")
    bill = price(**dict(zip(names, rates, strict=True)))
    used = Usage(sum(entered), sum(written), entered[0], written[0], entered[1])
    assert 0 <= bill.cost(used) <= bill.worst(used.input, used.output)


@given(
    st.builds(
        Price,
        input=_RATES,
        output=_RATES,
        cached_input=_RATES | st.none(),
        cache_write=_RATES | st.none(),
        reasoning=_RATES | st.none(),
    ),
    st.lists(_TOKENS, min_size=5, max_size=5),
)
def test_whole_numbers_cost_what_decimals_do(made: Price, tokens: list[int]) -> None:
    fresh, cached, written, plain, thought = tokens
    usage = Usage(fresh + cached + written, plain + thought, cached, thought, written)
    into, out = made.input, made.output
    cached_into = into if made.cached_input is None else made.cached_input
    cache_write = into if made.cache_write is None else made.cache_write
    reasoning = out if made.reasoning is None else made.reasoning

    def nano(millionths: Decimal) -> int:
        return int((millionths * 1000).to_integral_value(rounding=ROUND_CEILING))

    with localcontext(prec=60):
        cost = fresh * into + cached * cached_into + written * cache_write
        cost += plain * out + thought * reasoning
        worst = usage.input * max(into, cached_into, cache_write)
        worst += usage.output * max(out, reasoning)
        assert made.cost(usage) == nano(cost)
        assert made.worst(usage.input, usage.output) == nano(worst)
    assert made.cost(usage) <= made.worst(usage.input, usage.output)


def test_a_price_that_was_used_is_still_the_same_price() -> None:
    used = price(input=1, output=2)
    used.cost(Usage(1, 1))
    assert used == price(input=1, output=2)
    assert pickle.loads(pickle.dumps(used)) == used
