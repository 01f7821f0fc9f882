"""Which node type and market the wanted replicas go to, and what to do when one never comes up.

Pure. The health of an offer is a value: failures in a row and the time until which it is left
alone. An order that is overdue counts as a failure; the wait doubles with each, from one
start-up time to an hour, and meanwhile the next cheapest offer is used.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from cluster.cost import Offer

_OVERDUE = 3.0  # start-up times after which an order counts as failed
_LONGEST_WAIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class OfferHealth:
    """Failures in a row of one offer, and until when it is left alone."""

    failures: int = 0
    retry_at_s: float = 0.0


Health = Mapping[str, OfferHealth]  # by Offer.key
HEALTHY = OfferHealth()


def after_orders(
    health: Health, offers: Sequence[Offer], oldest_order_s: Mapping[str, float], now_s: float
) -> dict[str, OfferHealth]:
    """The health after a look at what is still starting.

    oldest_order_s: by offer key, when the oldest order was placed that does not serve yet; no
    entry where nothing starts. Overdue is three start-up times.
    """
    after = dict(health)
    for offer in offers:
        ordered = oldest_order_s.get(offer.key)
        known = after.get(offer.key, HEALTHY)
        overdue = ordered is not None and now_s - ordered > _OVERDUE * max(offer.startup_s, 1.0)
        if overdue and now_s >= known.retry_at_s:
            failures = known.failures + 1
            wait = min(_LONGEST_WAIT_S, max(offer.startup_s, 1.0) * 2.0 ** (failures - 1))
            after[offer.key] = OfferHealth(failures, now_s + wait)
    return after


def after_success(health: Health, key: str) -> dict[str, OfferHealth]:
    """The health after a replica of that offer came up: forgiven."""
    return {other: known for other, known in health.items() if other != key}


@dataclass(frozen=True, slots=True)
class Placement:
    """Replicas by offer key, what they cost an hour in dollars, and why they are there."""

    replicas: dict[str, int]
    usd_per_hour: float
    why: str


def spot_spares(spot_replicas: float, offer: Offer) -> float:
    """Spot replicas expected to be taken back while a replacement starts."""
    return spot_replicas * offer.startup_s / offer.mean_life_s


def place(
    wanted: int,
    offers: Sequence[Offer],
    health: Health,
    now_s: float,
    on_demand_floor: float = 0.0,
    patient: float = 0.0,
    least: int = 0,
) -> Placement:
    """Spread `wanted` replicas over the offers (cheapest first, as `cost.offers` returns them).

    The share `on_demand_floor` (0 to 1, rounded up) goes to the cheapest healthy on-demand
    offer, so that the market's taking back every spot node leaves something; the rest to the
    cheapest healthy offer of all. Where none is healthy, the one to be tried again soonest.
    The share `patient` is for work that nobody waits for: where spot is the cheapest it is bought
    there or not at all, beyond the `least` replicas that there always are. An offer that did not
    come up is tried again with one replica.
    """
    if wanted <= 0:
        return Placement({}, 0.0, "nothing wanted")
    tired = [o.key for o in offers if health.get(o.key, HEALTHY).retry_at_s > now_s]
    usable = [o for o in offers if o.key not in tired]
    if not usable:
        usable = [min(offers, key=lambda o: health.get(o.key, HEALTHY).retry_at_s)]
    cheapest, *others = usable
    sure = next((o for o in others if o.key not in health), None)
    tried = cheapest if sure is not None and cheapest.key in health else None
    cheapest = sure if tried is not None and sure is not None else cheapest
    firm = next((o for o in usable if not o.spot), None)
    markets = list(takewhile(lambda offer: offer.spot, offers))
    urgent = math.ceil(wanted * (1 - patient) - 1e-9) if markets else wanted
    urgent = max(urgent, min(wanted, least))
    replicas: Counter[str] = Counter()
    if cheapest.spot and firm is not None:
        floor = min(urgent, math.ceil(on_demand_floor * urgent - 1e-9))
        replicas[firm.key] += floor
        replicas[cheapest.key] += urgent - floor
    else:
        replicas[cheapest.key] += urgent
    if markets:
        market = cheapest if cheapest.spot else markets[0]
        replicas[market.key] += wanted - urgent
    if tried is not None and replicas[cheapest.key]:
        replicas[cheapest.key] -= 1
        replicas[tried.key] += 1
    replicas = +replicas
    by_key = {offer.key: offer for offer in offers}
    dollars = sum(float(by_key[key].usd_per_hour) * count for key, count in replicas.items())
    why = " + ".join(f"{count} on {key}" for key, count in replicas.items())
    if tired:
        why += f"; left alone for now: {', '.join(tired)} (did not come up)"
    return Placement(dict(replicas), dollars, why)


def keep_until_replaced(wanted: Mapping[str, int], serving: Mapping[str, int]) -> dict[str, int]:
    """`wanted`, with what already serves elsewhere kept until its replacement serves.

    Both by offer key. What serves is given up only as far as all that serves is more than all
    that is wanted: moving to another offer never makes the fleet smaller in between.
    """
    surplus = max(0, sum(serving.values()) - sum(wanted.values()))
    kept = dict(wanted)
    for key, count in serving.items():
        over = count - wanted.get(key, 0)
        if over > 0:
            dropped = min(over, surplus)
            surplus -= dropped
            if count - dropped > 0:
                kept[key] = count - dropped
    return kept
