"""The values that the scaling decision takes and gives: settings, what is seen, state, decision."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.cost import Offer, RemotePrice
from cluster.scaling.forecast import Forecast, ForecastState
from cluster.scaling.hindsight import Hindsight
from cluster.scaling.placement import OfferHealth, Placement


@dataclass(frozen=True, slots=True)
class ScalingTargets:
    """Seconds to the first token, and the share of requests that should be inside it."""

    ttft_s: float
    attainment: float = 0.99

    def __post_init__(self) -> None:
        if self.ttft_s <= 0 or not 0 < self.attainment < 1:
            raise ValueError("targets need ttft_s > 0 and 0 < attainment < 1")


@dataclass(frozen=True, slots=True)
class ModelScaling:
    """Settings of one model.

    offers: ways to place it, cheapest first, not empty (`cost.offers`). remote: an equal remote
    model that requests may spill to. late_usd: what one late answer costs, for deciding on
    keeping warm. priority: its weight where the budget does not pay for everything.
    expected_tokens: prompt and generated tokens of a request before any was seen.
    """

    name: str
    offers: tuple[Offer, ...]
    targets: ScalingTargets
    min_replicas: int = 0
    max_replicas: int = 1_000
    remote: RemotePrice | None = None
    late_usd: float = 0.01
    priority: float = 1.0
    on_demand_floor: float = 0.2
    drain_s: float = 15.0
    expected_tokens: tuple[float, float] = (1000.0, 200.0)

    def __post_init__(self) -> None:
        if not self.offers:
            raise ValueError(f"model {self.name} has no offer to be placed on")
        if not 0 <= self.min_replicas <= self.max_replicas:
            raise ValueError(f"model {self.name} needs 0 <= min_replicas <= max_replicas")
        if not 0 <= self.on_demand_floor <= 1 or self.priority <= 0 or self.late_usd < 0:
            raise ValueError(f"model {self.name}: floor in 0..1, priority > 0, late_usd >= 0")


@dataclass(frozen=True, slots=True)
class Seen:
    """What is seen of one model at one moment.

    arrived, arrived_prompt_tokens, answered, generated_tokens, first_tokens and late are totals
    since some start and never fall (a fall is taken as a restart of the counter); generated
    tokens count when their request is answered. serving, ordered: replicas that serve and that
    start, by offer key; without them all are of the first offer. oldest_order_s: by offer key, when
    the oldest order was placed that does not serve yet. patient: the share of the requests that
    nobody waits for (batch work): no on-demand node is bought for them.
    """

    now_s: float
    replicas: int
    starting: int = 0
    queued_requests: float = 0
    queued_prompt_tokens: float = 0
    running_requests: float = 0
    arrived: float = 0
    arrived_prompt_tokens: float = 0
    answered: float = 0
    generated_tokens: float = 0
    first_tokens: float = 0
    late: float = 0
    patient: float = 0
    serving: dict[str, int] = field(default_factory=dict)
    ordered: dict[str, int] = field(default_factory=dict)
    oldest_order_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScalingState:
    """What `decide` remembers between calls. A new one: ScalingState()."""

    seen: Seen | None = None
    forecast: ForecastState | None = None
    hindsight: Hindsight = field(default_factory=Hindsight)
    # Both as of the forecast's last closed bin.
    ahead: Forecast = Forecast(0.0, 0.0, 0.0)  # noqa: RUF009  frozen
    margin: float = 0.0
    prompt_tokens: float = 0.0  # running mean of a request
    generated_tokens: float = 0.0
    idle_since_s: float = 0.0
    busy_load: float = 0.0  # requests a second when last busy
    held: float = 0.0  # replicas wanted at the last decision, or not yet given up since
    held_s: float = 0.0  # when that was
    surge: float = 0.0  # the most that was wanted, or not yet given up since
    surge_s: float = 0.0  # when it was last wanted
    late_share: float = 0.0  # running share of late first tokens
    judged: float = 0.0  # requests in it
    health: dict[str, OfferHealth] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """Replicas wanted (serving and starting together), where, what for, and the next state.

    Loads are in replicas of work, backlog_s in seconds at the present size (inf where nobody
    serves what waits), `why` is one line for people,
    `causes` are its reasons as single words.
    """

    model: str
    replicas: int
    placement: Placement
    backlog_s: float
    present_load: float
    expected_load: float
    expected_error: float
    margin: float
    why: str
    state: ScalingState
    causes: tuple[str, ...] = ()
