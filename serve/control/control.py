"""Asks the rules at each phase, and does to the counters what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from models.answerer import Clock
from models.errors import FusionError, Overloaded, PolicyDenied
from serve.control.audit import Audit
from serve.control.counters import Counters
from serve.control.policy.catalog import Rule
from serve.control.policy.engine import Ruling, evaluate
from serve.control.policy.own import Decided, OwnRule
from serve.control.policy.values import Event, Policy, State
from serve.store.database import Database


class Control:
    """One for each process; the rules come with the catalog in force."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.clock = clock
        self.counters = Counters(database)
        self.audit = Audit(database)
        self._later: set[asyncio.Task[None]] = set()

    async def rule(self, rules: Sequence[Rule], event: Event) -> Ruling:
        """The ruling on this event, with its changes made and its verdicts on record.

        Raises StoreUnavailable: without their counters, policies let nothing pass.
        """
        concerned = [rule.policy for rule in rules if rule.concerns(event)]
        if not concerned:
            return Ruling("allow", event)
        asked = [await _asked(policy, event) for policy in concerned]
        names = [name for policy in asked for name in policy.counters(event)]
        if names:
            ruling = await self.counters.judged(
                names,
                holder(event),
                event.at,
                lambda state: evaluate(asked, event, state),
                over=event.phase == "response",
            )
        else:
            # Nothing is counted, so there is nothing that others could change meanwhile.
            ruling = evaluate(asked, event, State())
        await self.audit.record(ruling)
        return ruling

    def release(self, event: Event, *, settle: bool = False) -> None:
        """Give back soon what this event holds. Returns at once, so that it may stand where a
        call is being cancelled."""

        async def done() -> None:
            await self.counters.release(holder(event), settle=settle)

        task = asyncio.create_task(done())
        self._later.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._later.discard(task)
        # A hold that could not be given back ends by its own time.
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        """Write what is still to be written."""
        await asyncio.gather(*self._later, return_exceptions=True)
        await self.audit.flush()


def holder(event: Event) -> str:
    """Who holds what this event holds. An answer gives back what its call held."""
    phase = "model_call" if event.phase == "response" else event.phase
    return f"{phase}:{event.call.id}"


def refusal(ruling: Ruling) -> FusionError:
    """What a caller gets who is denied."""
    waits = [said.verdict.retry_after_s for said in ruling.objections]
    if waits and all(wait is not None for wait in waits):
        return Overloaded(ruling.reason, retry_after_s=max(wait or 0 for wait in waits))
    return PolicyDenied(f"{ruling.reason} This request was not answered.")


async def _asked(policy: Policy, event: Event) -> Policy:
    """The policy; a user's own function has answered already, outside of any transaction."""
    if not isinstance(policy, OwnRule):
        return policy
    return Decided(policy.name, policy.phases, await policy.ask(event))
