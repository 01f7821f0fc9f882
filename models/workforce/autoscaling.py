"""How Serve is told to scale a hosted model."""

from __future__ import annotations

from typing import Any

from models.scaling import FIRST, Fleet, Place
from models.spec import FakeModelSpec, VllmModel


def autoscaling(
    name: str, spec: VllmModel | FakeModelSpec, place: Place, fleet: Fleet | None = None
) -> dict[str, Any]:
    """Serve's autoscaling config in this place: by work and money where the catalog has measured
    rates and prices, within what `fleet` allows all models; else by the requests under way."""
    bounds = {
        # Of several places the rule knows which of them keeps the least.
        "min_replicas": spec.replicas.min if len(spec.places) == 1 else 0,
        "max_replicas": spec.replicas.max,
        "initial_replicas": spec.replicas.min if place.key == FIRST else 0,
        # How fast a policy learns of a change; Serve's default is ten seconds.
        "metrics_interval_s": 1.0,
    }
    if spec.scaling is None:
        return bounds | {"target_ongoing_requests": max(1, spec.max_ongoing // 2)}
    settings = spec.scaling.settings(name, spec.replicas.min, spec.replicas.max, fleet or Fleet())
    return bounds | {
        # The rule holds by itself: with Serve's delays on top a replica would come late.
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 0.0,
        "look_back_period_s": 2.0,
        # Known by its path: the floor above.
        "policy": {
            "policy_function": "cluster.scaling.policy:FusionScaling",
            "policy_kwargs": {"settings": settings, "place": place.key},
        },
    }
