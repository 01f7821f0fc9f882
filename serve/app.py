"""The Ray Serve application that answers, nothing else. A Serve config names `serve.app:build` and,
for each model that the cluster hosts, `models.workforce.app:build`."""

from __future__ import annotations

from typing import Any

from ray import serve as ray_serve

from models.flagship import account
from models.workforce.names import off_spot
from serve.gateway.deployment import Gateway
from serve.remote import JudgeReplica, RouterReplica
from serve.settings import Settings

#: Cases at work in one judge, above which another one is started where the catalog allows it.
JUDGE_CASES = 32


def build(args: dict[str, Any]) -> Any:
    """The application that answers. `args` are `Settings` as JSON data, or just a `catalog`.

    Gateway ──▶ model-<name>-<digest> ...  Accounts
       ├──────▶ Judge ──▶ the same
       └──────▶ Router
    """
    settings = Settings.of(args)
    catalog = settings.catalog
    accounts = account.deployment(off_spot(catalog))
    # Small shares of a CPU: these wait for models and hardly compute.
    light: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": 0.1, "label_selector": off_spot(catalog)},
        "health_check_period_s": 5,
    }
    # The door itself turns away what is above its limit, in the caller's dialect; Serve's limit
    # stands behind it.
    limit = catalog.server.max_concurrent + 64
    raw = settings.model_dump(mode="json")
    judges = catalog.server.judges
    judge = ray_serve.deployment(
        JudgeReplica,
        name="Judge",
        max_ongoing_requests=limit,
        autoscaling_config={
            "min_replicas": judges.min,
            "max_replicas": judges.max,
            "target_ongoing_requests": JUDGE_CASES,
        },
        **light,
    ).bind(raw, accounts)
    router = ray_serve.deployment(
        RouterReplica, name="Router", max_ongoing_requests=limit, **light
    ).bind(raw)
    return ray_serve.deployment(
        Gateway,
        name="Gateway",
        num_replicas=catalog.server.gateways,
        max_ongoing_requests=limit,
        graceful_shutdown_timeout_s=10,
        **light,
    ).bind(raw, accounts, judge, router)
