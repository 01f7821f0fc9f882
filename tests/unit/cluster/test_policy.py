"""Serve's wrapper: real decisions from a context, and never an exception."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.scaling.fleet import Fleet
from cluster.scaling.policy import FusionScaling
from models.spec import FakeModelSpec
from models.workforce.autoscaling import autoscaling


def context(**values: Any) -> SimpleNamespace:
    given = {
        "current_num_replicas": 1,
        "target_num_replicas": 1,
        "total_queued_requests": 0.0,
        "total_running_requests": 0.0,
        "aggregated_metrics": {},
        "policy_state": {},
        "current_time": 0.0,
    }
    return SimpleNamespace(**{**given, **values})


def test_it_scales_on_what_replicas_report(content: dict[str, Any]) -> None:
    policy = FusionScaling({"model": "m", "profile": content})
    replicas = 1
    for second in range(0, 600, 5):
        done = second * 10
        stats = {
            "answered": {"r1": done},
            "prompt_tokens": {"r1": done * 1000},
            "generated_tokens": {"r1": done * 100},
        }
        replicas, state = policy(context(current_time=float(second), aggregated_metrics=stats))
    assert replicas > 5
    assert "load" in state["why"]
    assert policy.last is not None


def test_a_model_is_known_by_its_application(content: dict[str, Any]) -> None:
    fleet = Fleet()
    for name, replicas in (("model-old", 2), ("model-new", 1)):
        policy = FusionScaling({"model": "m", "profile": content}, fleet=fleet)
        policy(context(app_name=name, current_num_replicas=replicas, target_num_replicas=replicas))
    assert dict(fleet.usd_per_hour()) == {"model-old": 1.6, "model-new": 0.8}


def test_totals_of_a_stopped_replica_are_kept(content: dict[str, Any]) -> None:
    policy = FusionScaling({"profile": content})
    policy(context(aggregated_metrics={"answered": {"a": 50.0}}))
    policy(context(current_time=9.0, aggregated_metrics={"answered": {"b": 5.0}}))
    assert policy.last is not None
    seen = policy.last.state.seen
    assert seen is not None
    assert seen.answered == 55


@pytest.mark.parametrize("settings", [{}, {"profile": {}}, {"profile": 3, "wrong": 1}])
def test_it_never_raises_and_says_so_once(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    policy = FusionScaling(settings)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert policy(context(target_num_replicas=4))[0] == 4
    assert len(caplog.records) == 1


def test_a_context_that_lacks_everything_keeps_the_target(content: dict[str, Any]) -> None:
    broken = SimpleNamespace(target_num_replicas=2)
    assert FusionScaling({"profile": content})(broken) == (2, {})


# -- as the catalog wires it -------------------------------------------------------------------

NAME = "m"


def hosted(**scaling: Any) -> FakeModelSpec:
    return FakeModelSpec.model_validate(
        {"engine": "fake", "replicas": {"min": 0, "max": 4}, "scaling": scaling or None}
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_models_scaling_is_the_policy_that_serve_loads(content: dict[str, Any]) -> None:
    from ray.serve.config import AutoscalingConfig

    parts = {key: content[key] for key in ("node", "replica", "targets")}
    config = AutoscalingConfig.model_validate(autoscaling(NAME, hosted(**parts)))
    assert (config.min_replicas, config.max_replicas) == (0, 4)
    assert config.upscale_delay_s == config.downscale_delay_s == 0
    policy = config.policy.get_policy()
    assert policy is FusionScaling
    shown: list[int] = []
    made = FusionScaling(
        **config.policy.policy_kwargs, show=lambda decision, seen: shown.append(decision.replicas)
    )
    busy = context(total_queued_requests=5000.0, total_running_requests=8.0)
    assert made(busy)[0] >= 1
    assert made.last is not None
    assert made.last.model == NAME
    assert shown == [made.last.replicas]


def test_without_rates_serve_scales_on_requests_under_way() -> None:
    plain = autoscaling(NAME, hosted())
    assert "policy" not in plain
    assert plain["target_ongoing_requests"] == 16
    assert plain["min_replicas"] == 0


def test_what_cannot_be_shown_changes_no_decision(content: dict[str, Any]) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError

    policy = FusionScaling({"profile": content, "min_replicas": 2}, show=broken)
    assert policy(context(target_num_replicas=1))[0] == 2
