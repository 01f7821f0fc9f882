"""Serve's wrapper: real decisions from a context, and never an exception."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
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
    policy = FusionScaling({"profile": content}, fleet=Fleet())
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
    spec = hosted(**parts)
    config = AutoscalingConfig.model_validate(autoscaling(NAME, spec, spec.places[0]))
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
    plain = autoscaling(NAME, hosted(), hosted().places[0])
    assert "policy" not in plain
    assert plain["target_ongoing_requests"] == 16
    assert plain["min_replicas"] == 0


def test_what_cannot_be_shown_changes_no_decision(content: dict[str, Any]) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError

    policy = FusionScaling({"profile": content, "min_replicas": 2}, show=broken)
    assert policy(context(target_num_replicas=1))[0] == 2


def test_policies_that_serve_ships_to_its_controller_share_one_budget(
    content: dict[str, Any], tmp_path: Path
) -> None:
    # As Serve does it: each application's builder pickles the policy's module by value, and the
    # controller, another process, loads what each of them sent.
    ship = (
        "import sys; from ray.serve.config import AutoscalingPolicy as P\n"
        "for path in sys.argv[1:]:\n"
        "    p = P(policy_function='cluster.scaling.policy:FusionScaling', policy_kwargs={})\n"
        "    open(path, 'wb').write(p.get_serialized_policy_def())"
    )
    shipped = [str(tmp_path / "one"), str(tmp_path / "two")]
    subprocess.run([sys.executable, "-W", "ignore", "-c", ship, *shipped], check=True)
    load = (
        "import sys, json; from types import SimpleNamespace as N; from ray import cloudpickle\n"
        "asked = dict(current_num_replicas=0, target_num_replicas=0,\n"
        "    total_queued_requests=0.0, total_running_requests=0.0, aggregated_metrics={},\n"
        "    policy_state={})\n"
        "policies = {}\n"
        "for path, name in zip(sys.argv[2:], 'ab'):\n"
        "    settings = dict(model=name, profile=json.loads(sys.argv[1]), min_replicas=2,\n"
        "        budget={'usd_per_hour': 2.4})\n"
        "    policy = cloudpickle.loads(open(path, 'rb').read())\n"
        "    policies[name] = policy(settings, show=lambda *_: None)\n"
        "for second in (0, 5):\n"
        "    for name, policy in policies.items():\n"
        "        print(policy(N(app_name=name, current_time=1e9 + second, **asked))[0])"
    )
    command = [sys.executable, "-c", load, json.dumps(content), *shipped]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    # Three replicas are paid for, and when all are known the first gets two of them.
    assert done.stdout.split() == ["0", "0", "2", "1"]


def test_a_new_controller_orders_nothing_for_what_was_done_before_it(
    content: dict[str, Any],
) -> None:
    policy = FusionScaling({"profile": content, "max_replicas": 50}, fleet=Fleet())
    running = ["r1", "r2", "r3"]
    names = ("answered", "asked", "prompt_tokens", "generated_tokens")
    for tenth in range(300):
        # Each tells in its turn what it has ever done; they are idle.
        told = {one: 1e5 for number, one in enumerate(running) if tenth > 3 * number}
        if tenth >= 100:
            told["new"] = 7.0  # came up under our eyes: all of it is news
        asked = context(
            current_num_replicas=3,
            target_num_replicas=3,
            running_replicas=running,
            current_time=1e9 + tenth / 10,
            aggregated_metrics=dict.fromkeys(names, told),
        )
        assert policy(asked)[0] <= 3
    assert policy.last is not None
    assert policy.last.state.seen is not None
    assert policy.last.state.seen.answered == 7
