"""What policies see and say."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from models.call import Call
from models.messages import Completion, Request, ToolCall
from models.policies import Scope

Phase = Literal["request", "model_call", "tool_call", "tool_result", "response"]
PHASES: tuple[Phase, ...] = ("request", "model_call", "tool_call", "tool_result", "response")
Decision = Literal["allow", "deny", "ask"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that is about to happen, or in `response` has happened.

    `request`: a client's request came in. `model_call`: `model` is about to be asked, which may
    cost `worst_nano_usd` (None: nobody knows). `tool_call`: a model asked for `tool`.
    `tool_result`: `request` brings results of tools. `response`: `model` answered with
    `completion`.
    """

    phase: Phase
    #: Seconds since the epoch.
    at: float
    call: Call
    request: Request
    model: str = ""
    worst_nano_usd: int | None = 0
    tool: ToolCall | None = None
    completion: Completion | None = None
    #: Policies whose ask a person has approved for this very request.
    approved: frozenset[str] = frozenset()
    #: Under which it holds what it holds. Not the call's id, which a client may have chosen.
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def within(self, scope: Scope) -> str:
        """Whose count this event adds to: `session:ses_…`. Outside a session, itself."""
        call = self.call
        match scope:
            case "project":
                return f"project:{call.project}"
            case "key":
                return f"key:{call.project}:{call.key or ''}"
            case "session" if call.session:
                return f"session:{call.session}"
            case "job" if call.job:
                return f"job:{call.job}"
        return f"request:{call.request or call.id}"


@dataclass(frozen=True, slots=True)
class Count:
    """One counter: its value, and what calls under way hold beside it."""

    value: int = 0
    held: int = 0


NOTHING = Count()


@dataclass(frozen=True, slots=True)
class State:
    """The counters that a policy asked for, by name. One that nobody wrote is zero."""

    counts: Mapping[str, Count] = field(default_factory=dict)

    def of(self, counter: str) -> Count:
        return self.counts.get(counter, NOTHING)

    def value(self, counter: str) -> int:
        return self.of(counter).value


@dataclass(frozen=True, slots=True)
class Put:
    """Set a counter."""

    counter: str
    value: int


@dataclass(frozen=True, slots=True)
class Add:
    """Add to a counter."""

    counter: str
    amount: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Hold `amount` for this call until it ends, or at the latest until `until` (seconds)."""

    counter: str
    amount: int
    until: float


Change = Put | Add | Hold


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What an approval may raise: this counter, to `proposed` or another value. `per_unit` of the
    counter are one `unit` of what a person speaks of. `seen` is its value that the ask rests on."""

    counter: str
    proposed: int
    unit: str
    per_unit: int = 1
    seen: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one policy says. `changes` happen only if nobody objects."""

    decision: Decision
    reason: str = ""
    changes: tuple[Change, ...] = ()
    #: What to ask instead, with `allow`: redacted, or of another model.
    request: Request | None = None
    #: With `ask`: what an approval may raise.
    ceiling: Ceiling | None = None
    #: With `deny`: seconds after which it may be allowed.
    retry_after_s: float | None = None


ALLOW = Verdict("allow")


class Policy(Protocol):
    """A rule with a name of its own. Pure: the same event and state, the same verdict."""

    @property
    def name(self) -> str: ...

    @property
    def phases(self) -> frozenset[Phase]: ...

    def counters(self, event: Event) -> tuple[str, ...]:
        """The counters that its verdict on this event depends on."""
        ...

    def judge(self, event: Event, state: State) -> Verdict: ...
