"""What capacity costs, what fits where, and what is refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cost import (
    ModelSpec,
    NodeType,
    RemotePrice,
    ServiceRates,
    SpotMarket,
    bill_microdollars,
    missing_memory,
    offers,
)
from cluster.errors import FitError, PriceError

RATES = ServiceRates(4000, 0.045, 0.0009, 32)
L4 = NodeType("l4", Decimal("0.80"), 120, 1, 22.5, 60, SpotMarket(Decimal("0.30"), 7200, 30))
H100 = NodeType("h100", Decimal("4.00"), 300, 8, 79.6, 1000)


def test_work_of_a_request_is_prefill_plus_its_share_of_full_batches() -> None:
    assert RATES.work_s(4000, 0) == pytest.approx(1.0)
    assert RATES.work_s(0, 32) == pytest.approx(0.045 + 32 * 0.0009)


def test_bill_is_whole_microdollars() -> None:
    assert bill_microdollars(Decimal("0.80"), 3600) == 800_000
    assert bill_microdollars(Decimal("0.80"), 0.1) == 22


def test_remote_call_price() -> None:
    remote = RemotePrice(Decimal("0.30"), Decimal("0.60"), 0.6)
    assert remote.microdollars(1000, 100) == 360


@pytest.mark.parametrize("price", [None, Decimal(0), Decimal(-1), Decimal("NaN")])
def test_a_missing_or_zero_price_is_refused(price: Decimal | None) -> None:
    with pytest.raises(PriceError, match="node type l4 needs a price above zero"):
        NodeType("l4", price, 120)  # type: ignore[arg-type]


def test_offers_are_cheapest_first_and_spot_only_when_asked_for() -> None:
    model = ModelSpec("m", {"l4": RATES, "h100": RATES}, weights_gib=16)
    assert [o.key for o in offers(model, [H100, L4])] == ["l4/on-demand", "h100/on-demand"]
    assert offers(model, [H100, L4], spot=True)[0].key == "l4/spot"


def test_a_model_that_fits_nowhere_is_told_which_memory_is_missing() -> None:
    model = ModelSpec("big", {"l4": RATES}, weights_gib=140, kv_cache_gib=20, tensor_parallel=1)
    with pytest.raises(FitError, match=r"l4: accelerator memory: needs 160\.0 GiB .* missing 137"):
        offers(model, [L4])


def test_host_memory_accelerators_and_rates_are_named_too() -> None:
    assert "host memory" in str(missing_memory(ModelSpec("m", host_gib=100), L4))
    assert "needs 2 accelerators" in str(missing_memory(ModelSpec("m", tensor_parallel=2), L4))
    with pytest.raises(FitError, match="no measured rates"):
        offers(ModelSpec("m"), [L4])
    with pytest.raises(FitError, match="none is configured"):
        offers(ModelSpec("m"), [])


def test_weights_are_split_over_tensor_parallel_accelerators() -> None:
    assert missing_memory(ModelSpec("m", weights_gib=140, tensor_parallel=2), H100) is None


@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_more_tokens_are_never_less_work(prompt: int, generated: int) -> None:
    assert RATES.work_s(prompt + 1, generated) > RATES.work_s(prompt, generated) >= 0
    assert RATES.work_s(prompt, generated + 1) > RATES.work_s(prompt, generated)
