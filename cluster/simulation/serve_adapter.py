"""Ray Serve's own scaling code inside the simulator: its default policy, or a user's class.

The policy is wrapped and called by the same function that Serve's controller uses
(`_apply_autoscaling_config`), with a real `AutoscalingContext` and `AutoscalingConfig`; only
three things are ours, because the controller does them with live actors:

* the clock: Serve's delays read `time.time()`; while a policy runs, that module sees the fake
  clock instead;
* the ongoing-requests figure: the time-weighted mean of running and queued requests over
  `look_back_period_s`, as of the last push of metrics (every `metrics_interval_s`), the last
  value counted as lasting until now, as `autoscaling_state` does it;
* the bounds: min_replicas and max_replicas, as `apply_bounds` does it.

This module imports Ray, so import it only where it is used.
"""

from __future__ import annotations

import importlib
import math
import time as _real_time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import Any

from ray.serve import autoscaling_policy as _serve_policy
from ray.serve._private.common import DeploymentID
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from cluster.errors import PolicyError
from cluster.profile import Profile
from cluster.simulation.simulator import View, Wanted

# Serve counts seconds since 1970; a start of zero would look like "never" to a policy.
_EPOCH_S = 1_700_000_000.0
_MAX_REPLICAS = 100_000


class _FakeTime:
    """Stands for the `time` module inside Serve's policy module while a policy runs."""

    def __init__(self) -> None:
        self.now_s = _EPOCH_S

    def time(self) -> float:
        return self.now_s

    def __getattr__(self, name: str) -> Any:
        return getattr(_real_time, name)


@contextmanager
def _clock(fake: _FakeTime) -> Iterator[None]:
    real = _serve_policy.time
    _serve_policy.time = fake
    try:
        yield
    finally:
        _serve_policy.time = real


class ServePolicy:
    """A Serve autoscaling policy as a contender of the simulator."""

    def __init__(
        self, name: str, policy: Callable[[AutoscalingContext], Any], config: AutoscalingConfig
    ) -> None:
        self.name = name
        self._config = config
        self._policy = _serve_policy._apply_autoscaling_config(policy)
        self._state: dict[str, Any] = {}
        self._target: int | None = None
        self._seen: deque[tuple[float, int, int]] = deque()  # (time, running, queued)
        self._pushed: list[tuple[float, int, int]] = []
        self._next_push_s = 0.0
        self._fake = _FakeTime()
        self._scaled_s: dict[str, float | None] = {"up": None, "down": None}
        self._deployment = DeploymentID(name="simulated", app_name="simulated")

    def decide(self, view: View) -> Wanted:
        """What Serve would set the target to, at this moment."""
        if self._target is None:
            self._target = view.replicas
        self._record(view)
        self._fake.now_s = _EPOCH_S + view.now_s
        try:
            with _clock(self._fake):
                decision, state = self._policy(self._context(view))
            self._state = dict(state or {})
            wanted = math.ceil(decision)
        except Exception as error:
            raise PolicyError(
                f"the policy failed at {view.now_s:.0f} s ({type(error).__name__}: {error}); it "
                "returns a number of replicas and a state"
            ) from error
        bounded = max(self._config.min_replicas, min(self._config.max_replicas, wanted))
        if bounded != self._target:
            self._scaled_s["up" if bounded > self._target else "down"] = self._fake.now_s
        self._target = bounded
        return Wanted(bounded)

    def _record(self, view: View) -> None:
        self._seen.append((view.now_s, view.running_requests, view.queued_requests))
        while self._seen[0][0] < view.now_s - self._config.look_back_period_s:
            self._seen.popleft()
        if view.now_s >= self._next_push_s:
            self._pushed = list(self._seen)
            self._next_push_s = view.now_s + self._config.metrics_interval_s

    def _mean(self, now_s: float, queued_only: bool) -> float:
        points, total = self._pushed, 0.0
        for (at, running, queued), after in zip(
            points, [*(p[0] for p in points[1:]), now_s], strict=True
        ):
            total += (queued if queued_only else running + queued) * max(after - at, 0.0)
        span = now_s - points[0][0]
        if span > 0:
            return total / span
        return float(points[-1][2] if queued_only else points[-1][1] + points[-1][2])

    def _context(self, view: View) -> AutoscalingContext:
        assert self._target is not None
        now_s = view.now_s
        return AutoscalingContext(
            deployment_id=self._deployment,
            deployment_name=self._deployment.name,
            app_name=self._deployment.app_name,
            current_num_replicas=view.replicas,
            target_num_replicas=self._target,
            running_replicas=[],
            total_num_requests=lambda: self._mean(now_s, False),
            total_queued_requests=lambda: self._mean(now_s, True),
            aggregated_metrics={},
            raw_metrics={},
            capacity_adjusted_min_replicas=self._config.min_replicas,
            capacity_adjusted_max_replicas=self._config.max_replicas,
            policy_state=dict(self._state),
            last_scale_up_time=self._scaled_s["up"],
            last_scale_down_time=self._scaled_s["down"],
            current_time=self._fake.now_s,
            config=self._config,
        )


def serve_default(settings: Mapping[str, float]) -> ServePolicy:
    """Serve's default policy with these settings of AutoscalingConfig (those of the grid)."""
    config = AutoscalingConfig(min_replicas=1, max_replicas=_MAX_REPLICAS, **settings)
    return ServePolicy("serve-default", config.policy.get_policy(), config)


def serve_default_grid(profile: Profile) -> list[dict[str, float]]:
    """Every combination of the profile's grid; Serve's own defaults where it has none."""
    grid = profile.serve_default_grid
    if grid is None:
        return [{}]
    axes = grid.model_dump()
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def user_policy(path: str) -> ServePolicy:
    """A user's Serve policy class, named MODULE:CLASS, without arguments.

    Called as Serve calls it, with up- and downscale delay 0 so that its own decisions are what
    is measured; a class attribute `autoscaling_config` (a mapping) overrides that.
    Raises PolicyError where it cannot be imported or made.
    """
    module_name, _, class_name = path.partition(":")
    try:
        made = getattr(importlib.import_module(module_name), class_name)
        policy = made()
        given = dict(getattr(made, "autoscaling_config", {}))
        config = AutoscalingConfig(
            **{
                "min_replicas": 0,
                "max_replicas": _MAX_REPLICAS,
                "upscale_delay_s": 0.0,
                "downscale_delay_s": 0.0,
                **given,
            }
        )
    except Exception as error:  # whatever a user's module raises
        raise PolicyError(
            f"cannot load the policy {path}: {type(error).__name__}: {error}"
        ) from None
    return ServePolicy(path, policy, config)
