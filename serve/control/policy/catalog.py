"""The policies that a catalog declares, in its order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.policies import (
    Allow,
    Loop,
    Own,
    PolicySpec,
    Privacy,
    Rate,
    Size,
    Spend,
    ToolCalls,
    WallTime,
)
from serve.control.policy import own
from serve.control.policy.allow import AllowList
from serve.control.policy.loops import LoopDetector
from serve.control.policy.privacy import PrivacyRule
from serve.control.policy.rate import RateLimit
from serve.control.policy.size import SizeLimit
from serve.control.policy.spend import SpendLimit
from serve.control.policy.tool_calls import ToolCallLimit
from serve.control.policy.values import Event, Policy
from serve.control.policy.wall_time import WallTimeLimit


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy, and whom it is for."""

    policy: Policy
    spec: PolicySpec

    def concerns(self, event: Event) -> bool:
        return (
            event.phase in self.policy.phases
            and (not self.spec.keys or event.call.key in self.spec.keys)
            and (not self.spec.projects or event.call.project in self.spec.projects)
        )


def rules(specs: Mapping[str, PolicySpec]) -> tuple[Rule, ...]:
    """Raises ValueError where a user's own function is not there."""
    return tuple(Rule(_policy(name, spec), spec) for name, spec in specs.items())


def _policy(name: str, spec: PolicySpec) -> Policy:
    match spec:
        case Spend():
            return SpendLimit(name, spec)
        case WallTime():
            return WallTimeLimit(name, spec)
        case Rate():
            return RateLimit(name, spec)
        case Allow():
            return AllowList(name, spec)
        case Loop():
            return LoopDetector(name, spec)
        case ToolCalls():
            return ToolCallLimit(name, spec)
        case Privacy():
            return PrivacyRule(name, spec)
        case Size():
            return SizeLimit(name, spec)
        case Own():
            return own.load(name, spec)
