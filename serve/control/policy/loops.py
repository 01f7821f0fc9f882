"""Stops a model that calls the same tool with the same arguments again and again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from models.messages import ToolCall
from models.policies import Loop
from serve.control.policy.values import Event, Phase, Put, State, Verdict


@dataclass(frozen=True, slots=True)
class LoopDetector:
    """Counters: which call was the last, and how often it came in a row."""

    name: str
    spec: Loop
    phases: frozenset[Phase] = frozenset(("tool_call",))

    def counters(self, event: Event) -> tuple[str, ...]:
        last = f"{self.name}/{event.within(self.spec.scope)}"
        return (last, f"{last}#times")

    def judge(self, event: Event, state: State) -> Verdict:
        assert event.tool is not None
        last, times = self.counters(event)
        this = _print(event.tool)
        counted = state.value(times) + 1 if state.value(last) == this else 1
        # A client outside any session brings its history along.
        seen = max(counted, _trailing(event, this) + 1)
        if seen >= self.spec.repeats:
            return Verdict(
                self.spec.then,
                f"Policy '{self.name}': the tool '{event.tool.name}' was called with the same "
                f"arguments {seen} times in a row.",
            )
        return Verdict("allow", changes=(Put(last, this), Put(times, counted)))


def _print(tool: ToolCall) -> int:
    """A number that is the same for the same call, whatever its spaces and order of keys."""
    try:
        arguments = json.dumps(json.loads(tool.arguments), sort_keys=True)
    except ValueError:
        arguments = tool.arguments
    digest = hashlib.sha256(f"{tool.name}\n{arguments}".encode()).digest()
    return int.from_bytes(digest[:7])


def _trailing(event: Event, this: int) -> int:
    """How often the conversation ends with this call."""
    count = 0
    for message in reversed(event.request.messages):
        for tool in reversed(message.tool_calls):
            if _print(tool) != this:
                return count
            count += 1
    return count
