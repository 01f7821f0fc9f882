"""The profile file: what one replica on one node does and costs, as measured.

`fusion profile MODEL` writes it, the simulator and the cost model read it. One YAML mapping:

    node:     {usd_per_hour, startup_s, spot: {usd_per_hour, mean_life_s, notice_s},
               accelerators, accelerator_memory_gib, host_memory_gib}      the last four optional
    replica:  {prefill_tokens_per_s, decode: {step_base_s, step_per_sequence_s, max_batch},
               tensor_parallel, weights_gib, kv_cache_gib, host_gib}       the last four optional
    targets:  {ttft_s, tpot_s, attainment}
    remote:   {usd_per_million_input, usd_per_million_output, ttft_s}          optional
    trace:    {rate_scale}                                                     optional
    serve_default_grid: {target_ongoing_requests, upscale_delay_s, ...}        optional, lists

Unknown keys are refused: a misspelt one would silently mean its default.
"""

from __future__ import annotations

import math
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cluster.cost import (
    ModelSpec,
    NodeType,
    Offer,
    RemotePrice,
    ServiceRates,
    SpotMarket,
    offers,
)
from cluster.errors import ProfileError


def _number(value: Any) -> Any:
    # YAML 1.1 reads 1e-3, without a point, as a word.
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _money(value: Any) -> Decimal:
    value = _number(value)
    # Through its shortest text, so that the float 0.80 is 0.8 and not 0.8000000000000000444.
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("a price is a number of dollars")  # noqa: TRY004  pydantic reports it
    return Decimal(str(value))


Money = Annotated[Decimal, BeforeValidator(_money), Field(gt=0, allow_inf_nan=False)]
Number = Annotated[float, BeforeValidator(_number), Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Count = Annotated[int, Field(strict=True, ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SpotSection(_Section):
    """Spot market of the node: dollars an hour, mean seconds until taken back, notice in s."""

    usd_per_hour: Money
    mean_life_s: Positive
    notice_s: NotNegative


class NodeSection(_Section):
    """The node one replica runs on. `startup_s`: from the order to the first request served. Its
    memory, as `cost.NodeType` has it, is enough where nothing is said of it."""

    usd_per_hour: Money
    startup_s: NotNegative
    spot: SpotSection | None = None
    accelerators: Count = 1
    accelerator_memory_gib: Positive | None = None
    host_memory_gib: Positive | None = None


class DecodeSection(_Section):
    """One decode step of `n` sequences takes step_base_s + step_per_sequence_s * n seconds."""

    step_base_s: NotNegative
    step_per_sequence_s: Positive
    max_batch: Count


class ReplicaSection(_Section):
    """Rates of one replica. `prefill_chunk_tokens`: prompt tokens that one step may take in. What
    it needs of its node is as `cost.ModelSpec` has it."""

    prefill_tokens_per_s: Positive
    decode: DecodeSection
    prefill_chunk_tokens: Count = 2048
    tensor_parallel: Count = 1
    weights_gib: NotNegative = 0.0
    kv_cache_gib: NotNegative = 0.0
    host_gib: NotNegative = 0.0


class TargetsSection(_Section):
    """Seconds to the first token and between tokens, and the share of requests inside the first."""

    ttft_s: Positive
    tpot_s: Positive
    attainment: Annotated[Number, Field(gt=0, lt=1)]


class RemoteSection(_Section):
    """An equal model behind a remote API: prices in dollars a million tokens."""

    usd_per_million_input: Money
    usd_per_million_output: Money
    ttft_s: NotNegative


class TraceSection(_Section):
    """How a trace is made busier: each request `rate_scale` times (see cluster.trace.rescale)."""

    rate_scale: Count = 1


class ServeDefaultGrid(_Section):
    """Settings of Ray Serve's own policy to choose among; every combination is tried."""

    target_ongoing_requests: Annotated[tuple[Positive, ...], Field(min_length=1)]
    upscale_delay_s: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (30.0,)
    downscale_delay_s: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (600.0,)
    look_back_period_s: Annotated[tuple[Positive, ...], Field(min_length=1)] = (30.0,)


class Profile(_Section):
    """A whole profile file, checked. See the module's text for the form."""

    node: NodeSection
    replica: ReplicaSection
    targets: TargetsSection
    remote: RemoteSection | None = None
    trace: TraceSection = TraceSection()
    serve_default_grid: ServeDefaultGrid | None = None

    def node_type(self, name: str = "node") -> NodeType:
        """The node as the cost model knows it."""
        node, spot = self.node, self.node.spot
        market = SpotMarket(spot.usd_per_hour, spot.mean_life_s, spot.notice_s) if spot else None
        return NodeType(
            name=name,
            usd_per_hour=node.usd_per_hour,
            startup_s=node.startup_s,
            accelerators=node.accelerators,
            accelerator_memory_gib=node.accelerator_memory_gib or math.inf,
            host_memory_gib=node.host_memory_gib or math.inf,
            spot=market,
        )

    def offers(self, model: str, *, node: str = "node", spot: bool = False) -> tuple[Offer, ...]:
        """Ways to place a replica of `model`, as it is called, on this node type, as it is called,
        with what it needs here. Raises FitError where the node does not hold it."""
        replica = self.replica
        needs = ModelSpec(
            name=model,
            rates={node: self.rates()},
            weights_gib=replica.weights_gib,
            kv_cache_gib=replica.kv_cache_gib,
            host_gib=replica.host_gib,
            tensor_parallel=replica.tensor_parallel,
        )
        return offers(needs, [self.node_type(node)], spot=spot)

    def rates(self) -> ServiceRates:
        """The replica's measured rates as the cost model knows them."""
        decode = self.replica.decode
        return ServiceRates(
            prefill_tokens_per_s=self.replica.prefill_tokens_per_s,
            step_base_s=decode.step_base_s,
            step_per_sequence_s=decode.step_per_sequence_s,
            max_batch=decode.max_batch,
            prefill_chunk_tokens=self.replica.prefill_chunk_tokens,
        )

    def remote_price(self) -> RemotePrice | None:
        """The remote API's prices, or None where the profile names none."""
        if self.remote is None:
            return None
        return RemotePrice(
            usd_per_million_input=self.remote.usd_per_million_input,
            usd_per_million_output=self.remote.usd_per_million_output,
            ttft_s=self.remote.ttft_s,
        )


def read_profile(path: Path) -> Profile:
    """Read and check a profile file.

    Raises ProfileError: the file cannot be read, is no YAML mapping, or a field is missing,
    unknown or out of range; the message names the field. Raises FitError as `parse_profile` does.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"cannot read the profile {path}: {error}") from None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f" at line {place.line + 1}" if place is not None else ""
        raise ProfileError(f"the profile {path} is no YAML{where}") from None
    return parse_profile(content, str(path))


def parse_profile(content: Any, name: str = "profile") -> Profile:
    """Check what a profile file holds; `name` is what messages call it.

    Raises ProfileError, and FitError where its node does not hold its replica.
    """
    if not isinstance(content, dict):
        raise ProfileError(f"{name} must be a YAML mapping with node, replica and targets")
    try:
        profile = Profile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ProfileError(f"{name}: {field}: {first['msg']}{more}") from None
    profile.offers(name)
    return profile
