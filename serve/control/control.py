"""Asks the rules at each phase, and does to the counters what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from models.answerer import Clock
from models.call import Call
from models.errors import StoreUnavailable
from models.flagship.client import new_client
from serve.control import sweep
from serve.control.approvals import Approvals
from serve.control.asked import Asked
from serve.control.audit import Audit
from serve.control.counters import Counters
from serve.control.parking import Parking
from serve.control.policy.catalog import Rule
from serve.control.policy.engine import Ruling, evaluate
from serve.control.policy.own import Decided, OwnRule
from serve.control.policy.privacy import PrivacyRule
from serve.control.policy.values import Event, Policy, State
from serve.control.webhook import Webhook
from serve.editions.edition import Current
from serve.store.database import Database

#: Seconds between the tries to give back what a call held, while the store does not answer. What
#: cannot be given back ends by its own time.
RETRIES_S = (0.1, 1.0, 5.0, 15.0, 60.0)
#: Asks of calls within requests that are kept, where a request did not need to know.
MOST_ASKS = 1000


class Control:
    """One for each process; the rules come with the catalog in force."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.clock = clock
        self.counters = Counters(database)
        self.audit = Audit(database)
        self.approvals = Approvals(database, self.counters, clock)
        self.parking = Parking(self.approvals, clock)
        self._database = database
        self._asks: dict[str, Asked] = {}
        self._background: list[asyncio.Task[None]] = []
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
            ruling = await self._judged(asked, event, names)
        else:
            # Nothing is looked at that others could change meanwhile. A long prompt takes a while.
            looks = any(isinstance(policy, PrivacyRule) for policy in asked)
            judge = partial(evaluate, asked, event, State())
            ruling = await asyncio.to_thread(judge) if looks else judge()
            if ruling.changes:
                # A session's turn, which comes next, is flushed and flushes this with it.
                flushed = event.call.session is None
                await self.counters.end(event.token, ruling.changes, flushed=flushed)
        await self.audit.record(ruling)
        return ruling

    async def _judged(self, policies: Sequence[Policy], event: Event, names: list[str]) -> Ruling:
        try:
            return await self.counters.judged(
                names, event.token, event.at, lambda state: evaluate(policies, event, state)
            )
        except asyncio.CancelledError:
            self.release(event)  # what nobody waits for any more may be held all the same
            raise

    def release(self, event: Event, *, settle: bool = False) -> None:
        """Give back soon what this event holds, or count it as used. Returns at once, so that it
        may stand where a call is being cancelled."""

        async def done() -> None:
            for wait_s in RETRIES_S:
                try:
                    await self.counters.release(event.token, settle=settle)
                except StoreUnavailable:
                    await self.clock.sleep(wait_s)
                else:
                    return

        task = asyncio.create_task(done())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def remember(self, call: Call, asked: Asked) -> None:
        """Keep that a call within a request had to ask, for as long as that may matter."""
        self._asks[call.request or call.id] = asked
        if len(self._asks) > MOST_ASKS:
            self._asks.pop(next(iter(self._asks)))

    def recall(self, call: Call) -> Asked | None:
        """What a call within this request had to ask."""
        return self._asks.pop(call.id, None)

    def start(self, editions: Current) -> None:
        """From now on continue what is approved, and tell the webhook, in the background."""
        self.parking.start(lambda: editions.current)
        webhook = Webhook(
            self._database,
            lambda: editions.current.catalog.approvals,
            new_client(),
            self.clock,
        )
        self._background = [
            asyncio.create_task(webhook.run()),
            asyncio.create_task(
                sweep.run(
                    self._database,
                    self.clock,
                    lambda: editions.current.catalog.server.response_days,
                )
            ),
        ]

    async def close(self) -> None:
        """Write what is still to be written."""
        await self.parking.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.gather(*self._later, return_exceptions=True)
        await self.audit.flush()


async def _asked(policy: Policy, event: Event) -> Policy:
    """The policy; a user's own function has answered already, outside of any transaction."""
    if not isinstance(policy, OwnRule):
        return policy
    return Decided(policy.name, policy.phases, await policy.ask(event))
