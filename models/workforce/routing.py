"""Serve's choice of a replica, with our order among those who wait (`turns`).

A class of Serve's public extension point for request routers. It runs where a handle is, so in each
gateway: the order is kept among the requests of one gateway.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ray import cloudpickle
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError
from ray.serve.request_router import PendingRequest, RunningReplica

from models.scaling import Scaling
from models.workforce.turns import TICKET, Target, Ticket, Turns, crowd, is_full, target


class FairRouter(PowerOfTwoChoicesRequestRouter):  # type: ignore[misc]  # Ray is untyped
    """Two replicas by chance and the less busy of them, as Serve's own; turns by ours."""

    def initialize_state(self, most: int, target: Mapping[str, float] | None = None) -> None:
        """Serve calls it with the config's words. `most` requests should wait at once, and are
        promised the `Target`."""
        self._most = most
        self._turns = Turns(Target(**target or {}))

    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        mine = ticket(pending_request)
        if is_retry:
            self._turns.back(mine)
        elif len(self._pending_requests_to_fulfill) >= self._most:
            waiting = crowd(ticket(one) for one in self._alive())
            # Serve also holds those for a moment who need not wait.
            if is_full(waiting, mine, self._most + self._free()):
                raise BackPressureError(sum(waiting.values()), self._most)
        return await super()._choose_replica_for_request(pending_request, is_retry=is_retry)

    def _fulfill_next_pending_request(
        self, replica: RunningReplica, request_metadata: Any = None
    ) -> None:
        if alive := self._alive():
            # One that has moved here is older than its place in Serve's own line.
            line = sorted(((ticket(one), one) for one in alive), key=lambda pair: pair[0].came_s)
            tickets, waiting = [mine for mine, _ in line], [one for _, one in line]
            chosen = waiting.pop(self._turns.next(tickets, time.time()))
            self._pending_requests_to_fulfill.clear()
            self._pending_requests_to_fulfill.extend([chosen, *waiting])
        super()._fulfill_next_pending_request(replica, request_metadata)

    def _free(self) -> int:
        """Places where nobody is, as far as this gateway has heard; one of unknown load is free."""
        known = self.replica_queue_len_cache.get
        replicas = self.curr_replicas.items()
        return sum(max(0, one.max_ongoing_requests - (known(key) or 0)) for key, one in replicas)

    def _alive(self) -> list[PendingRequest]:
        return [one for one in self._pending_requests_to_fulfill if not one.future.done()]


def ticket(pending: PendingRequest) -> Ticket:
    """That of this request; a plain one where it brings none."""
    body = pending.args[0] if pending.args else None
    found = body.get(TICKET) if isinstance(body, dict) else None
    return Ticket(*found) if found else Ticket(came_s=pending.created_at)


def config(most: int, scaling: Scaling | None = None) -> RequestRouterConfig:
    """A deployment's config with this router, for a line of `most` requests.

    Ray 2.60 refuses a router of one's own for the first deployment of an application where HAProxy
    is on, because HAProxy would go round it. It goes by the name of the class and not by the class.
    A hosted model has no route that HAProxy knows, so the class travels under the default's name.
    """
    words: dict[str, Any] = {"most": most}
    if scaling is not None:
        words["target"] = target(scaling)._asdict()
    made = RequestRouterConfig(request_router_kwargs=words)
    made.set_serialized_request_router_cls(cloudpickle.dumps(FairRouter))
    return made
