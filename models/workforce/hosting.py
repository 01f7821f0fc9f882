"""A hosted model of the catalog as a Ray Serve deployment."""

from __future__ import annotations

from typing import Any

from ray import serve as ray_serve

from models.scaling import Fleet
from models.spec import FakeModelSpec, VllmModel
from models.workforce import routing, vllm
from models.workforce.autoscaling import autoscaling
from models.workforce.fake import FakeReplica
from models.workforce.names import application_name, deployment_name
from models.workforce.vllm import VllmReplica

#: How long a replica that is not wanted any more may finish what it has begun.
LEAVE_S = 600.0


def handle(name: str, spec: VllmModel | FakeModelSpec) -> Any:
    """Serve's handle of this model's deployment."""
    return ray_serve.get_deployment_handle(deployment_name(name), application_name(name, spec))


def deployment(name: str, spec: VllmModel | FakeModelSpec, fleet: Fleet | None = None) -> Any:
    """The bound Serve application that hosts this model, within what all may cost."""
    options = serve_options(name, spec, fleet)
    replica: type = FakeReplica
    env = spec.env
    if isinstance(spec, VllmModel):
        replica, env = VllmReplica, vllm.environment(spec)
        options["placement_group_bundles"] = vllm.bundles(spec)
        options["placement_group_strategy"] = "PACK"
    options["ray_actor_options"] = {"num_cpus": spec.cpus, "runtime_env": {"env_vars": env}}
    return ray_serve.deployment(replica, **options).bind(name, spec.model_dump(mode="json"))


def serve_options(
    name: str, spec: VllmModel | FakeModelSpec, fleet: Fleet | None = None
) -> dict[str, Any]:
    """Options of the deployment.

    Ray's LLM server defaults to a thousand million requests at once, with which it never
    scales and never says that it is full; the catalog's limits replace that.
    """
    return {
        "name": deployment_name(name),
        "max_ongoing_requests": spec.max_ongoing,
        # Our router says who may not wait, and Serve's own bound stands far behind it.
        "max_queued_requests": 4 * (spec.max_queued + spec.max_ongoing * spec.replicas.max),
        "request_router_config": routing.config(spec.max_queued),
        # A replica that cannot start says why at the first try; the next would say the same.
        "max_constructor_retry_count": 1,
        "health_check_period_s": 5,
        "health_check_timeout_s": 30,
        # A replica that leaves answers first what it has begun; a dead one is stopped at once.
        "graceful_shutdown_timeout_s": LEAVE_S,
        "graceful_shutdown_wait_loop_s": 0.5,
        "autoscaling_config": autoscaling(name, spec, fleet),
    }
