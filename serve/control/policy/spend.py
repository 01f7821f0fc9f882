"""A limit on money: steps at which a person is asked, and an end that may be approved or not."""

from __future__ import annotations

from dataclasses import dataclass, replace

from models.policies import Spend
from models.prices import NANO_PER_USD, usd
from serve.control.policy.values import ALLOW, Add, Ceiling, Event, Hold, Phase, State, Verdict

#: A call without a deadline holds its worst case for this long if nobody says how it ended.
HOLD_S = 3600.0


@dataclass(frozen=True, slots=True)
class SpendLimit:
    """Counters: what was spent, and beside it the ceiling that somebody has approved."""

    name: str
    spec: Spend
    phases: frozenset[Phase] = frozenset(("request", "model_call", "response"))

    def counters(self, event: Event) -> tuple[str, ...]:
        if event.phase == "response":
            return ()  # what was spent adds to whatever there is
        spent = self._spent(event)
        return (spent, f"{spent}#ceiling")

    def judge(self, event: Event, state: State) -> Verdict:
        spent = self._spent(event)
        if event.phase == "response":
            cost = _cost(event)
            counts = cost or event.worst_nano_usd
            return Verdict("allow", changes=(Add(spent, cost),) if counts else ())
        worst = event.worst_nano_usd
        # The cheaper model may be one that costs nothing but the machine.
        if worst is None and event.model != self.spec.downgrade_to:
            return Verdict(
                "deny",
                f"Policy '{self.name}': what a call of '{event.model}' would cost cannot be known. "
                f"Set models.{event.model}.price in the catalog, and that of each model that may "
                "answer in its place.",
            )
        approved = f"{spent}#ceiling"
        count = state.of(spent)
        used = count.value + count.held + (worst or 0)
        ceiling = max(self._steps[0], state.value(approved))
        if self.spec.then != "ask":
            ceiling = min(ceiling, self._limit)  # beyond a hard stop nobody can approve
        # At the door nothing is known of the cost but that it is more than nothing.
        fits = used <= ceiling if event.phase == "model_call" else used < ceiling
        if fits:
            return Verdict("allow", changes=self._hold(event, spent))
        if self.spec.then == "downgrade" and ceiling >= self._limit:
            return self._downgrade(event)
        reason = (
            f"Policy '{self.name}': {event.within(self.spec.scope)} has spent "
            f"{usd(count.value)} dollars, and {usd(used - count.value)} more may follow; "
            f"it may spend {usd(ceiling)}."
        )
        if ceiling >= self._limit and self.spec.then == "deny":
            return Verdict("deny", reason)
        proposed = Ceiling(
            approved, self._next(ceiling, used), "dollars", NANO_PER_USD, state.value(approved)
        )
        return Verdict("ask", reason, self._hold(event, spent), ceiling=proposed)

    @property
    def _limit(self) -> int:
        return round(self.spec.limit_usd * NANO_PER_USD)

    @property
    def _steps(self) -> tuple[int, ...]:
        return (*sorted(round(at * NANO_PER_USD) for at in self.spec.ask_at_usd), self._limit)

    def _next(self, ceiling: int, used: int) -> int:
        """The ceiling to propose: the next step, or beyond the limit once as much again."""
        above = [step for step in self._steps if step > ceiling and step >= used]
        return above[0] if above else max(ceiling + self._limit, used)

    def _spent(self, event: Event) -> str:
        return f"{self.name}/{event.within(self.spec.scope)}"

    def _hold(self, event: Event, counter: str) -> tuple[Hold, ...]:
        if event.phase != "model_call" or not event.worst_nano_usd:
            return ()
        until = event.call.deadline or event.at + HOLD_S
        return (Hold(counter, event.worst_nano_usd, until),)

    def _downgrade(self, event: Event) -> Verdict:
        cheaper = self.spec.downgrade_to
        assert cheaper is not None
        # Once it is the cheaper model's turn there is nothing left to go down to.
        if event.phase != "model_call" or event.model == cheaper:
            return ALLOW
        reason = f"Policy '{self.name}': the limit is reached, so '{cheaper}' answers."
        return Verdict("allow", reason, request=replace(event.request, model=cheaper))


def _cost(event: Event) -> int:
    assert event.completion is not None
    return sum(stage.nano_usd or 0 for stage in event.completion.stages)
