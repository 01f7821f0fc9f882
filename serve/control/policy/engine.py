"""How verdicts add up: the first deny wins, asks accumulate, and only then does state change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from serve.control.policy.values import Change, Decision, Event, Policy, State, Verdict


@dataclass(frozen=True, slots=True)
class Said:
    """What one policy said."""

    policy: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Ruling:
    """What all policies together say.

    `changes` are empty unless the decision is allow, or it has happened. `event` is the event as
    policies have rewritten it.
    """

    decision: Decision
    event: Event
    said: tuple[Said, ...] = ()
    changes: tuple[Change, ...] = ()

    @property
    def objections(self) -> tuple[Said, ...]:
        """Who denied or asked: what `decision` rests on."""
        return tuple(one for one in self.said if one.verdict.decision == self.decision != "allow")

    @property
    def reason(self) -> str:
        return " ".join(one.verdict.reason for one in self.objections)


def evaluate(policies: Iterable[Policy], event: Event, state: State) -> Ruling:
    """The ruling of these policies on one event.

    An ask that a person has approved for this request counts as an allow. Each policy sees the
    request as those before it have rewritten it. In the phase `response` all that policies count
    is counted, whoever objects: it has happened.
    """
    over = event.phase == "response"
    said: list[Said] = []
    changes: list[Change] = []
    decision: Decision = "allow"
    for policy in policies:
        if event.phase not in policy.phases:
            continue
        verdict = _verdict(policy, event, state)
        if verdict.decision == "ask" and policy.name in event.approved:
            verdict = replace(verdict, decision="allow", reason=f"Approved: {verdict.reason}")
        said.append(Said(policy.name, verdict))
        if verdict.decision == "deny":
            decision = "deny"
            if not over:
                break
        elif verdict.decision == "ask" and decision == "allow":
            decision = "ask"
        elif verdict.request is not None:
            event = replace(event, request=verdict.request, model=_model(event, verdict))
        changes += verdict.changes
    applied = tuple(changes) if decision == "allow" or over else ()
    return Ruling(decision, event, tuple(said), applied)


def _model(event: Event, verdict: Verdict) -> str:
    assert verdict.request is not None
    return verdict.request.model if event.phase == "model_call" else event.model


def _verdict(policy: Policy, event: Event, state: State) -> Verdict:
    """What it says; a policy that cannot be evaluated denies."""
    try:
        verdict = policy.judge(event, state)
    except Exception as error:
        return Verdict("deny", f"Policy '{policy.name}' failed ({type(error).__name__}).")
    if not isinstance(verdict, Verdict) or verdict.decision not in ("allow", "deny", "ask"):
        return Verdict("deny", f"Policy '{policy.name}' gave no verdict.")
    return verdict
