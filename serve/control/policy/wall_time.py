"""A limit on the time since the first request of a session or job."""

from __future__ import annotations

from dataclasses import dataclass

from models.policies import WallTime
from serve.control.policy.values import Ceiling, Event, Phase, Put, State, Verdict


@dataclass(frozen=True, slots=True)
class WallTimeLimit:
    """Counters, in milliseconds: when it began, and the length that somebody has approved."""

    name: str
    spec: WallTime
    phases: frozenset[Phase] = frozenset(("request", "model_call"))

    def counters(self, event: Event) -> tuple[str, ...]:
        began = f"{self.name}/{event.within(self.spec.scope)}"
        return (began, f"{began}#ceiling")

    def judge(self, event: Event, state: State) -> Verdict:
        began, approved = self.counters(event)
        now, start = round(event.at * 1000), state.value(began)
        if not start:
            return Verdict("allow", changes=(Put(began, now),))
        limit = max(round(self.spec.limit_s * 1000), state.value(approved))
        if now - start <= limit:
            return Verdict("allow")
        reason = (
            f"Policy '{self.name}': {event.within(self.spec.scope)} began "
            f"{(now - start) / 1000:.0f} seconds ago; it may take {limit / 1000:g}."
        )
        if self.spec.then == "deny":
            return Verdict("deny", reason)
        longer = now - start + limit
        ceiling = Ceiling(approved, longer, "seconds", 1000, state.value(approved))
        return Verdict("ask", reason, ceiling=ceiling)
