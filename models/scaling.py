"""What a workforce model costs, does and owes: the words for scaling it by work and money.

The form is that of a profile file (`cluster.profile`), so what was measured is pasted as it is. The
rule that uses it lives a floor above (`cluster.scaling`).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from models.record import Record


class SpotPrice(Record):
    """The node's spot market."""

    usd_per_hour: float = Field(gt=0, allow_inf_nan=False)
    #: Mean seconds until the node is taken back.
    mean_life_s: float = Field(gt=0, allow_inf_nan=False)
    #: Seconds between the notice and the end.
    notice_s: float = Field(ge=0, allow_inf_nan=False)


class NodePrice(Record):
    """The node that one replica runs on."""

    usd_per_hour: float = Field(gt=0, allow_inf_nan=False)
    #: From the order to the first request served: node, image and weights together.
    startup_s: float = Field(ge=0, allow_inf_nan=False)
    #: For the simulator: nothing here orders spot nodes.
    spot: SpotPrice | None = None
    accelerators: int = Field(1, ge=1)
    #: Of each of them, in GiB; None: enough.
    accelerator_memory_gib: float | None = Field(None, gt=0, allow_inf_nan=False)
    #: In GiB; None: enough.
    host_memory_gib: float | None = Field(None, gt=0, allow_inf_nan=False)


class DecodeRate(Record):
    """A decode step of n sequences takes step_base_s + n * step_per_sequence_s seconds."""

    step_base_s: float = Field(ge=0, allow_inf_nan=False)
    step_per_sequence_s: float = Field(gt=0, allow_inf_nan=False)
    max_batch: int = Field(ge=1)


class ReplicaRates(Record):
    """What one replica does, and in GiB what it needs of its node."""

    prefill_tokens_per_s: float = Field(gt=0, allow_inf_nan=False)
    decode: DecodeRate
    #: For the simulator.
    prefill_chunk_tokens: int = Field(2048, ge=1)
    #: Accelerators that share its weights and its cache.
    tensor_parallel: int = Field(1, ge=1)
    weights_gib: float = Field(0.0, ge=0, allow_inf_nan=False)
    kv_cache_gib: float = Field(0.0, ge=0, allow_inf_nan=False)
    host_gib: float = Field(0.0, ge=0, allow_inf_nan=False)


class Promise(Record):
    """What is promised to those who ask."""

    ttft_s: float = Field(2.0, gt=0, allow_inf_nan=False)
    #: For the simulator.
    tpot_s: float = Field(0.1, gt=0, allow_inf_nan=False)
    #: The share of requests whose first token is in time.
    attainment: float = Field(0.99, gt=0, lt=1)


class Fleet(Record):
    """What the replicas of all scaled models together may cost, in US dollars."""

    usd_per_hour: float | None = Field(None, gt=0, allow_inf_nan=False)
    #: Of a UTC day.
    usd_per_day: float | None = Field(None, gt=0, allow_inf_nan=False)


class Scaling(Record):
    """Scales a workforce model by the work that waits and what a replica costs."""

    node: NodePrice
    replica: ReplicaRates
    targets: Promise = Promise()
    #: What one late answer costs, in US dollars: how long an idle replica is kept warm.
    late_usd: float = Field(0.01, ge=0, allow_inf_nan=False)
    #: Models that answer as well. The cheapest takes what would be late here, for as long as that
    #: is worth its price.
    spill: tuple[str, ...] = ()
    #: Who would wait longer for a first token is told to come back, in seconds.
    shed_after_s: float = Field(60.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _sheds_late(self) -> Scaling:
        if self.shed_after_s < self.targets.ttft_s:
            raise ValueError(
                f"shed_after_s ({self.shed_after_s:g}) is below targets.ttft_s "
                f"({self.targets.ttft_s:g}): who is in time would be sent away"
            )
        return self

    def profile(self) -> dict[str, Any]:
        """The content of a profile file."""
        parts = {"node", "replica", "targets"}
        return self.model_dump(mode="json", include=parts, exclude_none=True)

    def settings(self, name: str, least: int, most: int, fleet: Fleet) -> dict[str, Any]:
        """As `cluster.scaling.policy` takes them: plain values that travel in a Serve config."""
        return {
            "model": name,
            "profile": self.profile(),
            "min_replicas": least,
            "max_replicas": most,
            "late_usd": self.late_usd,
            "budget": fleet.model_dump(mode="json", exclude_none=True),
        }
