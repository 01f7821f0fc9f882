"""One replica of the router: decides, reads what all replicas learned, keeps checkpoints.

The lessons in the store are the truth. A replica that starts takes the last checkpoint and reads
on from there; all of them read new lessons every second, so they learn from one another, and one
that dies loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections import deque
from contextlib import suppress
from typing import Any

from models.answerer import Clock
from models.errors import BadRequest, FusionError
from router.live import Event, LiveRouter, Plan, Question
from router.objective import NothingAffordable
from serve.auto.notebook import OVERLAP, PAGE, Checkpoint, Notebook

LOOK_S = 1.0
#: A checkpoint is kept after so many looks, if there was a lesson.
CHECKPOINT_LOOKS = 30

_log = logging.getLogger(__name__)


class Mind:
    def __init__(
        self,
        live: LiveRouter,
        notebook: Notebook,
        clock: Clock,
        weights: str = "shipped",
        refused: str | None = None,
    ) -> None:
        self._live = live
        self._fresh = live.state()
        self._notebook = notebook
        self._clock = clock
        self._weights, self._refused = weights, refused
        self._chance = random.Random()  # noqa: S311  exploring is not a secret
        # Decisions run in threads, so that two of them do not wait for each other's encoder.
        self._lock = threading.Lock()
        self._era, self._number, self._kept = 0, 0, 0
        self._seen: deque[int] = deque(maxlen=2 * OVERLAP)
        # A page that was asked for before an import must not be folded into what was imported.
        self._reading = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take over what was learned, and follow it from now on."""
        await self.refresh()
        self._watch = asyncio.create_task(self._follow())

    async def aclose(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await self._keep()

    async def decide(self, question: Question) -> Plan:
        """Raises BadRequest where the dollar ceiling leaves nothing."""
        now, chance = self._clock.now(), self._chance.random()
        try:
            return await asyncio.to_thread(self._decide, question, now, chance)
        except NothingAffordable as error:
            raise too_dear(error) from None

    def _decide(self, question: Question, now: float, chance: float) -> Plan:
        seen = self._live.look(question)
        with self._lock:
            plan = self._live.decide(question, now, chance, seen)
            self._live.promise(plan, now)
            return plan

    async def refresh(self) -> None:
        """Read what is new in the store."""
        async with self._reading:
            await self._read_on()

    async def _read_on(self) -> None:
        if await self._notebook.era() != self._era or self._number == 0:
            await self._take(await self._notebook.checkpoint())
        while True:
            page = await self._notebook.since(max(0, self._number - len(self._seen)))
            with self._lock:
                for number, event in page:
                    if number in self._seen or number <= self._number - OVERLAP:
                        continue
                    self._learn(number, event)
                    self._seen.append(number)
                    self._number = max(self._number, number)
            if len(page) < PAGE:
                return

    def _learn(self, number: int, event: Event | None) -> None:
        if event is None:
            return
        try:
            self._live.fold(event)
        except Exception:
            # One lesson that nobody can learn from must not keep the router from all later ones.
            _log.exception("the router's lesson %s is left out", number)

    async def _take(self, found: Checkpoint) -> None:
        with self._lock:
            try:
                self._live.restore(found.state or self._fresh)
            except ValueError as error:
                _log.error("the router's checkpoint cannot be used, it begins anew: %s", error)
                self._live.restore(self._fresh)
        self._era, self._number, self._kept = found.era, found.number, found.number
        self._seen.clear()

    async def _follow(self) -> None:
        looks = 0
        while True:
            await self._clock.sleep(LOOK_S)
            looks += 1
            try:
                await self.refresh()
                if looks % CHECKPOINT_LOOKS == 0:
                    await self._keep()
            except FusionError as error:
                _log.warning("the router's lessons cannot be read: %s", error)
            except Exception:
                # Whatever it is: who ends here decides on, and never learns again.
                _log.exception("the router's lessons cannot be read")

    async def _keep(self) -> None:
        """A lesson may come with a number below the last one: so a checkpoint waits for none."""
        if self._number > self._kept:
            made = Checkpoint(self._era, self._number, self.state())
            with suppress(FusionError):
                if await self._notebook.keep(made):
                    self._kept = self._number

    def state(self) -> dict[str, Any]:
        with self._lock:
            return self._live.state()

    async def replace(self, state: dict[str, Any] | None) -> None:
        """Begin anew, for all replicas, with this state or with nothing learned.

        Raises BadRequest where the state is broken.
        """
        if state is not None:
            try:
                LiveRouter(self._live.model, self._live.encoder).restore(state)
            except ValueError as error:
                raise BadRequest(f"This cannot be imported: {error}.") from None
        async with self._reading:
            await self._take(await self._notebook.replace(state))

    def status(self) -> dict[str, Any]:
        """What a person, or a metric, wants to know of this router."""
        with self._lock:
            live = self._live
            return {
                "weights": self._weights,
                "refused": self._refused,
                "encoder": live.encoder is not None and live.model.encoded is not None,
                "known_models": sorted(
                    {name for family in live.model.plain.families for name in family.models}
                ),
                "answers": live.health.answers,
                "judgements": live.health.judgements,
                "lessons": {name: round(n, 1) for name, n in live.learner.lessons().items()},
                "flagship_share": live.window.realised,
                "target_share": live.health.target_share,
                "calibration_error": live.health.calibration_error,
                "regret": live.health.regret,
                "explored_usd_today": live.explored_usd,
                "signs": {name: list(t.rates) for name, t in live.signs.tallies.items()},
                "era": self._era,
                "lesson_number": self._number,
            }


def too_dear(error: NothingAffordable) -> BadRequest:
    """What a caller is told whose ceiling leaves nothing."""
    return BadRequest(f"No model is cheap enough: {error}.", param="fusion.cost_cap_usd")
