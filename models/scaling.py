"""What a workforce model costs, does and owes: the words for scaling it by work and money.

The form is that of a profile file (`cluster.profile`), so what was measured is pasted as it is. The
rule that uses it lives a floor above (`cluster.scaling`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from models.record import Record

_WORD = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
#: Labels of nodes in Ray, by name: where a replica goes.
Labels = dict[
    Annotated[str, Field(pattern=rf"^([a-z0-9.-]{{1,253}}/)?{_WORD}$")],
    Annotated[str, Field(pattern=rf"^{_WORD}$")],
]
Cloud = Literal["aws", "gcp"]
#: What the node type of `scaling.node` is called among others,
MAIN = "node"
#: and the place on it that every model has.
FIRST = f"{MAIN}/on-demand"


class SpotPrice(Record):
    """The node's spot market."""

    usd_per_hour: float = Field(gt=0, allow_inf_nan=False)
    #: Mean seconds until the node is taken back.
    mean_life_s: float = Field(gt=0, allow_inf_nan=False)
    #: Seconds between the notice and the end.
    notice_s: float = Field(ge=0, allow_inf_nan=False)
    #: Of such nodes in the cluster. Without any this market is for the simulator alone.
    labels: Labels = Field(default_factory=dict)
    #: Whose notices a replica on such a node looks for. Default: on Kubernetes Ray hears by itself.
    notice: Cloud | None = None

    @model_validator(mode="after")
    def _is_live(self) -> SpotPrice:
        if self.notice is not None and not self.labels:
            raise ValueError("notice needs labels: without them no replica goes to such nodes")
        return self


class NodePrice(Record):
    """The node that one replica runs on."""

    usd_per_hour: float = Field(gt=0, allow_inf_nan=False)
    #: From the order to the first request served: node, image and weights together.
    startup_s: float = Field(ge=0, allow_inf_nan=False)
    spot: SpotPrice | None = None
    #: Of such nodes in the cluster, bought on demand. Without any a replica goes where it fits.
    labels: Labels = Field(default_factory=dict)
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


class OtherNode(NodePrice):
    """Another node type that the model may run on."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=40)]
    #: The type of GPU as Ray names it. Default: the model's own.
    accelerator: str | None = Field(None, pattern=r"^[A-Za-z0-9-]+$")
    #: What one replica does there. Default: what it does on `scaling.node`.
    replica: ReplicaRates | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where replicas of a model may run: a node type, bought in one way. Each is a deployment."""

    #: NODE/MARKET, as `cluster.cost.Offer` calls it.
    key: str
    usd_per_hour: float
    labels: Labels
    accelerator: str | None = None
    #: Where its nodes may be taken back.
    market: SpotPrice | None = None


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
    #: Its weight where the budget does not pay for all models.
    priority: float = Field(1.0, gt=0, le=1000, allow_inf_nan=False)
    #: The part of the replicas that is bought on demand although spot is cheaper.
    on_demand_floor: float = Field(0.2, ge=0, le=1)
    #: Node types to run on as well: the cheapest that comes up.
    other_nodes: tuple[OtherNode, ...] = Field((), max_length=8)

    @model_validator(mode="after")
    def _sheds_late(self) -> Scaling:
        if self.shed_after_s < self.targets.ttft_s:
            raise ValueError(
                f"shed_after_s ({self.shed_after_s:g}) is below targets.ttft_s "
                f"({self.targets.ttft_s:g}): who is in time would be sent away"
            )
        return self

    @model_validator(mode="after")
    def _told_apart(self) -> Scaling:
        names = [MAIN, *(node.name for node in self.other_nodes)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"other_nodes: each needs a name of its own, not twice '{twice[0]}'")
        for one, other in permutations(self.places(), 2):
            if one.labels.items() <= other.labels.items():
                raise ValueError(
                    f"the labels of {one.key} (none, or these alone) are also those of "
                    f"{other.key}: its replicas would land on that one's nodes; see node.labels, "
                    "node.spot.labels and other_nodes"
                )
        return self

    def places(self) -> tuple[Place, ...]:
        """Where its replicas may run: first `node`, bought on demand."""
        return tuple(self._places())

    def _places(self) -> Iterator[Place]:
        for node in (self.node, *self.other_nodes):
            name, accelerator = MAIN, None
            if isinstance(node, OtherNode):
                name, accelerator = node.name, node.accelerator
            yield Place(f"{name}/on-demand", node.usd_per_hour, node.labels, accelerator)
            if (spot := node.spot) is not None and spot.labels:
                yield Place(f"{name}/spot", spot.usd_per_hour, spot.labels, accelerator, spot)

    def profile(self) -> dict[str, Any]:
        """The content of a profile file."""
        parts = {"node", "replica", "targets"}
        content = self.model_dump(mode="json", include=parts, exclude_none=True)
        # Where and how nodes are found is no measurement.
        for market in (content["node"], content["node"].get("spot", {})):
            market.pop("labels", None)
            market.pop("notice", None)
        return content

    def other_profiles(self) -> dict[str, dict[str, Any]]:
        """The content of a profile file of the same model on each of the other nodes."""
        return {
            node.name: self.model_copy(
                update={"node": node, "replica": node.replica or self.replica}
            ).profile()
            for node in self.other_nodes
        }

    def settings(self, name: str, least: int, most: int, fleet: Fleet) -> dict[str, Any]:
        """As `cluster.scaling.policy` takes them: plain values that travel in a Serve config."""
        return {
            "model": name,
            "profile": self.profile(),
            "other_profiles": self.other_profiles(),
            "places": [place.key for place in self.places()],
            "on_demand_floor": self.on_demand_floor,
            "priority": self.priority,
            "min_replicas": least,
            "max_replicas": most,
            "late_usd": self.late_usd,
            "budget": fleet.model_dump(mode="json", exclude_none=True),
        }
