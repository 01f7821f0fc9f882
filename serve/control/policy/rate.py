"""Requests a minute and requests at the same time.

The rate is kept by one number a counter (generic cell rate algorithm): the time at which the
next request would be due if all came evenly. A request may come up to a burst ahead of that.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.policies import Rate
from serve.control.policy.values import Change, Event, Hold, Phase, Put, State, Verdict

HOLD_S = 3600.0


@dataclass(frozen=True, slots=True)
class RateLimit:
    name: str
    spec: Rate
    phases: frozenset[Phase] = frozenset(("request",))

    def counters(self, event: Event) -> tuple[str, ...]:
        due = f"{self.name}/{event.within(self.spec.scope)}"
        return (due, f"{due}#open")

    def judge(self, event: Event, state: State) -> Verdict:
        due, under_way = self.counters(event)
        changes: list[Change] = []
        if self.spec.concurrent is not None:
            if state.of(under_way).held >= self.spec.concurrent:
                return Verdict(
                    "deny",
                    f"Policy '{self.name}': {self.spec.concurrent} requests are under way.",
                    retry_after_s=1.0,
                )
            until = event.call.deadline or event.at + HOLD_S
            changes.append(Hold(under_way, 1, until))
        if self.spec.per_minute is not None:
            now, step = round(event.at * 1e6), 60e6 / self.spec.per_minute
            burst = self.spec.burst or max(1, round(self.spec.per_minute / 60))
            next_due = max(state.value(due), now) + round(step)
            early = next_due - now - round(step * burst)
            if early > 0:
                return Verdict(
                    "deny",
                    f"Policy '{self.name}': more than {self.spec.per_minute:g} requests a minute.",
                    retry_after_s=early / 1e6,
                )
            changes.append(Put(due, next_due))
        return Verdict("allow", changes=tuple(changes))
