"""The Ray Serve graph, nothing else. A Serve config names `serve.app:build`."""

from __future__ import annotations

from typing import Any

from ray import serve as ray_serve

from models.catalog import Catalog, FakeModelSpec, VllmModel
from models.flagship import account
from models.workforce import hosting
from router.actor import RouterReplica
from serve.gateway.deployment import Gateway
from serve.remote import JudgeReplica


def build(args: dict[str, Any]) -> Any:
    """The application for `args["catalog"]`, a checked catalog as JSON data, and `args["store"]`,
    the address of its store (default: the catalog's).

    Gateway ──▶ Workforce:<model> ...  Account:<provider account> ...
       ├──────▶ Judge ──▶ the same
       └──────▶ Router
    """
    raw = args["catalog"]
    catalog = Catalog.model_validate(raw)
    store = args.get("store") or catalog.server.store
    if store is None:
        raise ValueError("say where the store is: set server.store in the catalog")
    handles = {
        "workforce": {
            name: hosting.deployment(name, spec)
            for name, spec in catalog.models.items()
            if isinstance(spec, VllmModel | FakeModelSpec)
        },
        "accounts": account.deployment(),
    }
    # Small shares of a CPU: these wait for models and hardly compute.
    light = {"ray_actor_options": {"num_cpus": 0.1}, "health_check_period_s": 5}
    # The door itself turns away what is above its limit, in the caller's dialect; Serve's limit
    # stands behind it.
    limit = catalog.server.max_concurrent + 64
    judge = ray_serve.deployment(
        JudgeReplica, name="Judge", max_ongoing_requests=limit, **light
    ).bind(raw, store, handles)
    router = ray_serve.deployment(
        RouterReplica, name="Router", max_ongoing_requests=limit, **light
    ).bind()
    return ray_serve.deployment(
        Gateway,
        name="Gateway",
        num_replicas=catalog.server.gateways,
        max_ongoing_requests=limit,
        graceful_shutdown_timeout_s=10,
        **light,
    ).bind(raw, store, handles, judge, router)
