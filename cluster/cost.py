"""What capacity costs and what it can do: node types, prices, service rates, memory.

Pure arithmetic of values. Prices are Decimal dollars; a bill is integer micro-dollars.
Rates and times are floats in seconds: they are measurements, not money.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

from cluster.errors import FitError, PriceError

Market = Literal["on-demand", "spot"]
MICRO = Decimal(1_000_000)
_HOUR_S = Decimal(3600)


def _price(value: Decimal | None, what: str) -> None:
    if value is None or not value.is_finite() or value <= 0:
        raise PriceError(
            f"{what} needs a price above zero, not {value}; "
            "for a machine you own, give what an hour of it costs you"
        )


@dataclass(frozen=True, slots=True)
class SpotMarket:
    """Spot price in dollars an hour, mean seconds until the node is taken back, notice in s."""

    usd_per_hour: Decimal
    mean_life_s: float
    notice_s: float

    def __post_init__(self) -> None:
        _price(self.usd_per_hour, "spot market")
        if self.mean_life_s <= 0 or self.notice_s < 0:
            raise ValueError("a spot market needs mean_life_s > 0 and notice_s >= 0")


@dataclass(frozen=True, slots=True)
class NodeType:
    """One kind of node. `startup_s` runs from the order until a replica on it serves.

    Memory is GiB: `accelerator_memory_gib` of each accelerator, `host_memory_gib` of the node.
    Raises PriceError for a price that is missing or not above zero.
    """

    name: str
    usd_per_hour: Decimal
    startup_s: float
    accelerators: int = 1
    accelerator_memory_gib: float = math.inf
    host_memory_gib: float = math.inf
    spot: SpotMarket | None = None

    def __post_init__(self) -> None:
        _price(self.usd_per_hour, f"node type {self.name}")
        if self.startup_s < 0 or self.accelerators < 0:
            raise ValueError(f"node type {self.name}: negative start-up time or accelerators")

    def usd_per_hour_on(self, market: Market) -> Decimal:
        """Dollars an hour on `market`. Raises PriceError where there is no spot price."""
        if market == "on-demand":
            return self.usd_per_hour
        if self.spot is None:
            raise PriceError(f"node type {self.name} has no spot price")
        return self.spot.usd_per_hour


@dataclass(frozen=True, slots=True)
class ServiceRates:
    """Measured rates of one replica of one model on one node type.

    A decode step of n sequences takes step_base_s + step_per_sequence_s * n seconds and gives
    each one token; prompts are taken in at prefill_tokens_per_s, at most prefill_chunk_tokens
    in one step; at most max_batch sequences run at once. Prefill and decode share the
    accelerator's time (vLLM's chunked prefill: one step holds all decodes and one chunk).
    """

    prefill_tokens_per_s: float
    step_base_s: float
    step_per_sequence_s: float
    max_batch: int
    prefill_chunk_tokens: int = 2048

    def __post_init__(self) -> None:
        if self.prefill_tokens_per_s <= 0 or self.step_per_sequence_s <= 0 or self.step_base_s < 0:
            raise ValueError("service rates must be above zero")
        if self.max_batch < 1 or self.prefill_chunk_tokens < 1:
            raise ValueError("max_batch and prefill_chunk_tokens must be at least 1")

    def step_s(self, batch: int) -> float:
        """Seconds of one decode step of `batch` sequences."""
        return self.step_base_s + self.step_per_sequence_s * batch

    def seconds_per_generated_token(self) -> float:
        """Replica-seconds that one generated token takes in a full batch."""
        return self.step_s(self.max_batch) / self.max_batch

    def work_s(self, prompt_tokens: float, generated_tokens: float) -> float:
        """Replica-seconds of work in that many tokens, served as efficiently as it can be:
        prompt at the prefill rate, generation in a full batch."""
        return (
            prompt_tokens / self.prefill_tokens_per_s
            + generated_tokens * self.seconds_per_generated_token()
        )


@dataclass(frozen=True, slots=True)
class RemotePrice:
    """A remote API that answers as well: dollars a million tokens, seconds to first token."""

    usd_per_million_input: Decimal
    usd_per_million_output: Decimal
    ttft_s: float

    def __post_init__(self) -> None:
        _price(self.usd_per_million_input, "remote input")
        _price(self.usd_per_million_output, "remote output")

    def microdollars(self, prompt_tokens: int, generated_tokens: int) -> int:
        """The price of one call in micro-dollars, rounded half to even."""
        exact = (
            prompt_tokens * self.usd_per_million_input
            + generated_tokens * self.usd_per_million_output
        )
        return int(exact.to_integral_value(ROUND_HALF_EVEN))


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A workforce model as far as money is concerned.

    `rates` by node type name: a model is placed only where it was measured. Memory in GiB:
    `weights_gib` and `kv_cache_gib` are for the whole replica and are split evenly over its
    `tensor_parallel` accelerators; `host_gib` is needed on the node.
    """

    name: str
    rates: Mapping[str, ServiceRates] = field(default_factory=dict)
    weights_gib: float = 0.0
    kv_cache_gib: float = 0.0
    host_gib: float = 0.0
    tensor_parallel: int = 1


def missing_memory(model: ModelSpec, node: NodeType) -> str | None:
    """Why `model` does not fit on `node`, in words with both figures, or None where it fits."""
    if model.tensor_parallel > node.accelerators:
        return f"needs {model.tensor_parallel} accelerators, has {node.accelerators}"
    each = (model.weights_gib + model.kv_cache_gib) / model.tensor_parallel
    if each > node.accelerator_memory_gib:
        return (
            f"accelerator memory: needs {each:.1f} GiB on each of {model.tensor_parallel} "
            f"(weights {model.weights_gib:.1f} + KV cache {model.kv_cache_gib:.1f} in all), "
            f"has {node.accelerator_memory_gib:.1f}, missing "
            f"{each - node.accelerator_memory_gib:.1f}"
        )
    if model.host_gib > node.host_memory_gib:
        return (
            f"host memory: needs {model.host_gib:.1f} GiB, has {node.host_memory_gib:.1f}, "
            f"missing {model.host_gib - node.host_memory_gib:.1f}"
        )
    return None


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to get a replica: a node type on a market, with what it does and costs there."""

    node_type: str
    market: Market
    usd_per_hour: Decimal
    startup_s: float
    rates: ServiceRates
    mean_life_s: float = math.inf
    notice_s: float = 0.0

    @property
    def key(self) -> str:
        """The name under which health and replica counts of this offer are kept."""
        return f"{self.node_type}/{self.market}"

    def usd_per_request(self, prompt_tokens: float = 1000, generated_tokens: float = 200) -> float:
        """Dollars of one request of that size on a busy replica; lower is cheaper.

        A spot node spends the share startup / (startup + life) of its paid time starting:
        that is in the price.
        """
        useful = self.mean_life_s / (self.mean_life_s + self.startup_s) if self.spot else 1.0
        work_s = self.rates.work_s(prompt_tokens, generated_tokens)
        return float(self.usd_per_hour / _HOUR_S) * work_s / useful

    @property
    def spot(self) -> bool:
        """Whether the node can be taken back at short notice."""
        return self.market == "spot"


def offers(model: ModelSpec, nodes: Sequence[NodeType], *, spot: bool = False) -> tuple[Offer, ...]:
    """Every way to place `model`, cheapest request first; with `spot`, spot markets as well.

    Raises FitError where no node type holds the model or it was measured on none that does;
    the message says for each node type what is missing.
    """
    found: list[Offer] = []
    reasons: list[str] = []
    for node in nodes:
        reason = missing_memory(model, node)
        rates = model.rates.get(node.name)
        if reason is None and rates is None:
            reason = "no measured rates (run: fusion profile)"
        if reason is not None or rates is None:
            reasons.append(f"{node.name}: {reason}")
            continue
        found.append(Offer(node.name, "on-demand", node.usd_per_hour, node.startup_s, rates))
        if spot and node.spot is not None:
            market = node.spot
            found.append(
                Offer(
                    node.name,
                    "spot",
                    market.usd_per_hour,
                    node.startup_s,
                    rates,
                    market.mean_life_s,
                    market.notice_s,
                )
            )
    if not found:
        raise FitError(
            f"model {model.name} fits no node type: "
            + ("; ".join(reasons) if reasons else "none is configured")
        )
    return tuple(sorted(found, key=lambda offer: offer.usd_per_request()))


def bill_microdollars(usd_per_hour: Decimal, seconds: float) -> int:
    """Micro-dollars for `seconds` at a price an hour, billed by the second, half to even."""
    exact = usd_per_hour * MICRO * Decimal(repr(seconds)) / _HOUR_S
    return int(exact.to_integral_value(ROUND_HALF_EVEN))
