"""A limit on the number of tool calls."""

from __future__ import annotations

from dataclasses import dataclass

from models.policies import ToolCalls
from serve.control.policy.values import Add, Ceiling, Event, Phase, State, Verdict


@dataclass(frozen=True, slots=True)
class ToolCallLimit:
    """Counters: how many there were, and how many somebody has approved."""

    name: str
    spec: ToolCalls
    phases: frozenset[Phase] = frozenset(("tool_call",))

    def counters(self, event: Event) -> tuple[str, ...]:
        made = f"{self.name}/{event.within(self.spec.scope)}"
        return (made, f"{made}#ceiling")

    def judge(self, event: Event, state: State) -> Verdict:
        made, approved = self.counters(event)
        limit = max(self.spec.limit, state.value(approved))
        if state.value(made) < limit:
            return Verdict("allow", changes=(Add(made, 1),))
        reason = f"Policy '{self.name}': {limit} tool calls were made, which is the limit."
        if self.spec.then == "deny":
            return Verdict("deny", reason)
        proposed = limit + max(1, self.spec.limit)
        more = Ceiling(approved, proposed, "calls", seen=state.value(approved))
        return Verdict("ask", reason, (Add(made, 1),), ceiling=more)
