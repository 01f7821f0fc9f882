"""A hosted model of the catalog as a Ray Serve deployment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray import serve as ray_serve

from models.scaling import Fleet, Place
from models.spec import FakeModelSpec, VllmModel
from models.workforce import routing, vllm
from models.workforce.autoscaling import autoscaling
from models.workforce.fake import FakeReplica
from models.workforce.names import application_name, deployment_name
from models.workforce.vllm import VllmReplica

#: How long a replica that is not wanted any more may finish what it has begun.
LEAVE_S = 600.0


def handles(name: str, spec: VllmModel | FakeModelSpec) -> dict[str, Any]:
    """Serve's handles of this model's deployments, by place."""
    application = application_name(name, spec)
    return {
        place.key: ray_serve.get_deployment_handle(deployment_name(name, place.key), application)
        for place in spec.places
    }


def deployment(name: str, spec: VllmModel | FakeModelSpec, fleet: Fleet | None = None) -> Any:
    """The bound Serve application that hosts this model, within what all may cost: a deployment in
    each place. The first is given the others, for Serve to know of them."""
    first, *rest = spec.places
    others = [_deployment(name, spec, place, fleet) for place in rest]
    return _deployment(name, spec, first, fleet, others)


def _deployment(
    name: str,
    spec: VllmModel | FakeModelSpec,
    place: Place,
    fleet: Fleet | None,
    others: Sequence[Any] = (),
) -> Any:
    options = serve_options(name, spec, place, fleet)
    replica: type = FakeReplica
    env, actor = spec.env, dict[str, Any]()
    if isinstance(spec, VllmModel):
        if place.accelerator is not None:
            spec = spec.model_copy(update={"accelerator": place.accelerator})
        replica, env, bundles = VllmReplica, vllm.environment(spec), vllm.bundles(spec)
        options["placement_group_bundles"] = bundles
        options["placement_group_strategy"] = "PACK"
        if place.labels:
            options["placement_group_bundle_label_selector"] = [place.labels] * len(bundles)
    elif place.labels:
        actor["label_selector"] = place.labels
    actor |= {"num_cpus": spec.cpus, "runtime_env": {"env_vars": env}}
    made = ray_serve.deployment(replica, **options, ray_actor_options=actor)
    return made.bind(name, spec.model_dump(mode="json"), place.key, *others)


def serve_options(
    name: str, spec: VllmModel | FakeModelSpec, place: Place, fleet: Fleet | None = None
) -> dict[str, Any]:
    """Options of the deployment in this place.

    Ray's LLM server defaults to a thousand million requests at once, with which it never
    scales and never says that it is full; the catalog's limits replace that.
    """
    return {
        "name": deployment_name(name, place.key),
        "max_ongoing_requests": spec.max_ongoing,
        # Our router says who may not wait, and Serve's own bound stands far behind it.
        "max_queued_requests": 4 * (spec.max_queued + spec.max_ongoing * spec.replicas.max),
        "request_router_config": routing.config(spec.max_queued, spec.scaling),
        # A replica that cannot start says why at the first try; the next would say the same.
        "max_constructor_retry_count": 1,
        "health_check_period_s": 5,
        "health_check_timeout_s": 30,
        # A replica that leaves answers first what it has begun; a dead one is stopped at once.
        "graceful_shutdown_timeout_s": LEAVE_S,
        "graceful_shutdown_wait_loop_s": 0.5,
        "autoscaling_config": autoscaling(name, spec, place, fleet),
    }
