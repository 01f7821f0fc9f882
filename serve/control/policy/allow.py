"""Which models and tools may be used."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from models.policies import Allow
from serve.control.policy.values import ALLOW, Event, Phase, State, Verdict


@dataclass(frozen=True, slots=True)
class AllowList:
    """Concrete models are looked at, not aliases, so that no other name leads round it."""

    name: str
    spec: Allow
    phases: frozenset[Phase] = frozenset(("model_call", "tool_call"))

    def counters(self, event: Event) -> tuple[str, ...]:
        return ()

    def judge(self, event: Event, state: State) -> Verdict:
        if event.phase == "model_call":
            what, used, listed = "model", event.model, self.spec.models
        else:
            assert event.tool is not None
            what, used, listed = "tool", event.tool.name, self.spec.tools
        if listed is None or matches(used, listed):
            return ALLOW
        return Verdict(self.spec.then, f"Policy '{self.name}': the {what} '{used}' is not allowed.")


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
