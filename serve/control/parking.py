"""Requests that wait for a person, and how they go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from models.answerer import Answerer, Clock
from models.call import Call, new_id
from models.catalog import Catalog
from models.errors import (
    ApprovalNeeded,
    DeadlineExceeded,
    FusionError,
    StoreUnavailable,
    UpstreamError,
)
from models.messages import Request
from serve.control import neutral
from serve.control.approvals import HELD_S, Approvals
from serve.control.asked import Asked

log = logging.getLogger(__name__)

#: How often somebody looks for a decision, and for approved requests that nobody runs.
LOOK_S = 0.5
#: Parked requests that one process runs at the same time.
AT_ONCE = 4


class Served(Protocol):
    """The catalog in force, and what answers for every name, behind its entrance."""

    @property
    def catalog(self) -> Catalog: ...
    @property
    def pipeline(self) -> Answerer: ...


class Parking:
    """Parks requests, lets callers wait, and runs what was approved. One for each process."""

    def __init__(self, approvals: Approvals, clock: Clock, look_s: float = LOOK_S) -> None:
        self._approvals = approvals
        self._clock = clock
        self._look_s = look_s
        #: Who this process is among those that run parked requests.
        self._runner = new_id("run")
        self._task: asyncio.Task[None] | None = None

    async def park(
        self, asked: Asked, request: Request, call: Call, catalog: Catalog
    ) -> tuple[ApprovalNeeded, bool] | None:
        """What the caller is told, and whether it is this request that now waits for a person's
        word: where the same is asked already, only the first one waits. None where a person has
        just raised what this one would ask to raise, so that it may be tried again."""
        spec = catalog.approvals
        parked = await self._approvals.ask(
            asked.ruling, request, call, spec.expires_s, tell=spec.webhook is not None
        )
        if parked is None:
            return None
        identity, new = parked
        told = f"{asked.message} Ask for {identity}."
        if asked.plan:
            told = f"{told} Plan {asked.plan} keeps what is done, and goes on then."
        return ApprovalNeeded(told, approval=identity), new

    async def decided(self, identity: str, until: float) -> dict[str, Any]:
        """The approval, once a person has decided and its request has run. Raises
        DeadlineExceeded where that is not so at `until`."""
        while True:
            seen = await self._approvals.read(identity, None)
            if seen["state"] in ("rejected", "expired") or seen["run"] != "parked":
                return seen
            if self._clock.now() >= until:
                raise DeadlineExceeded(
                    f"Nobody has decided {identity} yet. It stands: the request goes on then."
                )
            await self._clock.sleep(self._look_s)

    def start(self, served: Callable[[], Served]) -> None:
        """From now on run whatever is approved, in the background."""
        self._task = asyncio.create_task(self._run_all(served))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run_one(self, served: Served) -> bool:
        """Run one approved request, if there is one. However often it is begun, its answer is
        kept once."""
        row = await self._approvals.take(self._runner)
        if row is None:
            return False
        await self._hold(row, served)
        return True

    async def _hold(self, row: dict[str, Any], served: Served) -> None:
        running = asyncio.create_task(self._run(row, served))
        try:
            while not running.done():
                await asyncio.wait({running}, timeout=HELD_S / 3)
                if not running.done() and not await self._approvals.still(row["id"], self._runner):
                    break  # another process took this one for dead and goes on with it
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _run(self, row: dict[str, Any], served: Served) -> None:
        call = neutral.call(row["work"]["call"])
        limit = served.catalog.server.request_timeout_s
        call = replace(
            call,
            # A name of its own: whatever this call leaves in the store, it leaves once.
            id=row["id"],
            request="",
            approved=call.approved | frozenset(row["granted"] or ()),
            deadline=self._clock.now() + limit,
            waits_s=0.0,
            resumed=True,
        )
        try:
            async with asyncio.timeout(limit):
                answer = await served.pipeline.complete(
                    neutral.request(row["work"]["request"]), call
                )
        except StoreUnavailable:
            return  # that is not how it ended: it is taken again when its time is over
        except FusionError as error:
            await self._approvals.failed(row["id"], self._runner, error)
        except TimeoutError:
            late = DeadlineExceeded("The deadline of this request has passed.")
            await self._approvals.failed(row["id"], self._runner, late)
        except Exception as error:
            # A bug of ours would be there again: asked once more, it would only be paid again.
            log.exception("a parked request failed")
            wrong = UpstreamError(f"Internal error: {type(error).__name__}.")
            await self._approvals.failed(row["id"], self._runner, wrong)
        else:
            await self._approvals.done(row["id"], self._runner, answer)

    async def _run_all(self, served: Callable[[], Served]) -> None:
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                with suppress(StoreUnavailable):
                    told = served().catalog.approvals.webhook is not None
                    await self._approvals.sweep(tell=told)
                    # One look for all of them: there is nearly never anything.
                    while len(running) < AT_ONCE and (
                        row := await self._approvals.take(self._runner)
                    ):
                        task = asyncio.create_task(self._work(row, served()))
                        running.add(task)
                        task.add_done_callback(running.discard)
                await self._clock.sleep(self._look_s)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _work(self, row: dict[str, Any], served: Served) -> None:
        try:
            await self._hold(row, served)
        except StoreUnavailable:
            pass  # what it held is taken again when its time is over
        except Exception:  # a bug of ours must not end all that is still to come
            log.exception("a parked request failed")
