"""Works through one batch, chunk by chunk, until it ends or somebody stops it.

A runner may die at any moment. All that it knows stands in the store, where the end of each chunk
is one transaction: the next runner goes on with the rows that have no answer, and asks again at
most what was in flight.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from models.answerer import Clock
from models.call import Call, new_id
from models.catalog import asked_names
from models.errors import (
    ApprovalNeeded,
    BadRequest,
    BudgetExceeded,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    PolicyDenied,
    StoreUnavailable,
    Unavailable,
)
from models.messages import Completion
from serve.access.caller import Caller
from serve.control.approvals import Approvals
from serve.jobs import answers, export
from serve.jobs.asking import Ask, Asker
from serve.jobs.batch import Batch, State, Why
from serve.jobs.batches import Batches, NewRow, NotOurs, Outcome, Pending
from serve.jobs.files import Files
from serve.jobs.purse import Purse
from serve.jobs.rows import Line, Lines, Row, content_key, failure, read_id, read_row
from serve.jobs.window import Window
from serve.money.bank import Bank

log = logging.getLogger(__name__)
T = TypeVar("T")

#: The most rows of one message to a gateway, and of one transaction.
CHUNK = 64
#: The most bytes of input that one chunk reads.
_CHUNK_BYTES = 8_000_000
_INGEST = 500
#: How often a row is asked that comes back unanswered though others are answered.
TRIES = 5
#: So many rows refused and none answered: it is the money that has ended.
_MOST_REFUSED = 16
#: Where nothing was answered for so long, a row that failed beside answers before goes on failing.
_OUTAGE_S = 1800.0
#: The longest that one row may take.
ROW_S = 1800.0
HEARTBEAT_S = 3.0
#: How long a store that does not answer is waited for.
_STORE_S = 60.0
_LONGEST_PAUSE_S = 30.0


@dataclass(slots=True)
class Runner:
    """One process's work on one batch. `name` is what the batch knows it by. Without `approvals`
    a row that a person must allow fails; with them it waits for that person's word. Without `bank`
    a budget holds for answers, but not for what rows cost that failed."""

    batches: Batches
    files: Files
    asker: Asker
    clock: Clock
    name: str = field(default_factory=lambda: new_id("runner"))
    window: Window = field(default_factory=Window)
    approvals: Approvals | None = None
    bank: Bank | None = None

    async def run(self, batch: str) -> Batch:
        """Until the batch has ended. Raises NotOurs where another runner took it over, and
        StoreUnavailable where the store is gone: both leave it resumable."""
        taken = await self.batches.take(batch, self.name)
        if taken.has_ended:
            return taken
        work = _Work(self, taken, Purse(taken.spec.budget_nano_usd, taken.nano_usd))
        with suppress(StoreUnavailable):
            await work.look_at_bills()
        heart = asyncio.create_task(work.beat())
        try:
            await work.all()
        finally:
            heart.cancel()
            with suppress(asyncio.CancelledError, FusionError, NotOurs):
                await heart
        return await self.batches.get(None, batch)


@dataclass(frozen=True, slots=True)
class _Share:
    """What a row may cost, whether that is all there is, and whether it wants no more itself."""

    cap: int | None
    is_all: bool
    is_own: bool = False

    def of(self, row: Row) -> _Share:
        own = row.asked.extension.cost_cap_nano_usd
        if own is None or (self.cap is not None and self.cap < own):
            return self
        return _Share(own, is_all=False, is_own=True)


@dataclass(slots=True)
class _Work:
    """The state of one run. `batch` holds the counts as they will be written next."""

    runner: Runner
    batch: Batch
    purse: Purse
    #: Rows at work.
    out: int = 0
    #: Keys that a chunk asks for now: a second row with the same key waits for the next round.
    asking: set[str] = field(default_factory=set)
    #: Few chunks read at a time: past its pool, the store opens a connection for each.
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    #: One chunk at a time is recorded, so that the totals never go back.
    recording: asyncio.Lock = field(default_factory=asyncio.Lock)
    stop: Why | None = None
    #: Something came back in this round that may be asked again.
    stuck: bool = False
    #: Something was answered in this round; and when that last was so in any.
    moved: bool = False
    moved_at: float = 0.0
    #: Rows that were refused with all the money that is left, since the last answer: either they
    #: are too dear, or the money has ended.
    refused: dict[int, Outcome] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    #: The approvals that rows wait for, by line.
    parked: dict[int, str] = field(default_factory=dict)

    async def all(self) -> None:
        self._hear(self.batch.state)
        if "in_progress" not in self.batch.times and not await self._validate():
            return
        if self.batch.state != "finalizing":
            await self._answer()
        await self._finish()

    async def beat(self) -> None:
        """Say that we live, and hear what others want."""
        while True:
            await self.runner.clock.sleep(HEARTBEAT_S)
            with suppress(StoreUnavailable):
                self._hear(
                    await self.runner.batches.alive(self.batch.id, self.runner.name, self.out)
                )
                await self.look_at_bills()

    async def look_at_bills(self) -> None:
        if self.runner.bank is not None and self.purse.budget is not None:
            account = f"job:{self.batch.id}"
            found = await self.runner.bank.balances((account,))
            self.purse.billed = found[account].settled

    def _hear(self, state: State) -> None:
        """What others have made of the batch."""
        if state == "cancelling":
            self.stop = self.stop or "cancelled"

    async def _enter(self, state: State, **columns: object) -> None:
        await self.runner.batches.end(self.batch.id, self.runner.name, state, **columns)
        self.batch = replace(self.batch, state=state)

    # Reading the input

    async def _validate(self) -> bool:
        """Note every line of the input. False if that ended the batch."""
        lines, new = Lines(), []
        async for piece in self.runner.files.content(self.batch.spec.input_file):
            for line in lines.feed(piece):
                new.append(self._note(line))
                if len(new) == _INGEST:
                    await self.runner.batches.add_rows(self.batch.id, self.runner.name, new)
                    new = []
        new += [self._note(line) for line in lines.end()]
        if new:
            await self.runner.batches.add_rows(self.batch.id, self.runner.name, new)
        self.batch = await self.runner.batches.validated(self.batch.id, self.runner.name)
        bad = self.batch.failed and self.batch.spec.bad_rows == "stop"
        if bad or not self.batch.rows:
            errors = self.batch.errors or ((0, "The input has no rows."),)
            await self._enter("failed", errors=[list(error) for error in errors])
            return False
        self._hear(await self.runner.batches.begin(self.batch.id, self.runner.name))
        return True

    def _note(self, line: Line) -> NewRow:
        place = (line.start, len(line.data))
        try:
            row = read_row(line.data, self.batch.spec.model)
            self._check(row)
        except FusionError as error:
            try:
                name = read_id(line.data)
            except BadRequest:
                name = f"line {line.number}"
            return NewRow(line.number, name, *place, failure(error))
        return NewRow(line.number, row.id, *place)

    def _check(self, row: Row) -> None:
        Caller(models=self.batch.spec.models).may_ask(asked_names(row.request))

    # Asking

    async def _answer(self) -> None:
        """Rounds over the rows that have no answer, until none is left or something stops it."""
        pause, self.moved_at = 1.0, self.runner.clock.now()
        while await self._round() and not self.stop:
            if self.stuck:
                await self.runner.clock.sleep(pause)
                pause = min(_LONGEST_PAUSE_S, pause * 2)
            else:
                pause = 1.0
        if self.refused and not self.stop:
            if self.purse.budget is None:
                # A limit of somebody else's: more money for this batch would not help these rows.
                await self._record([*self.refused.values()], {}, 0)
            else:
                self.stop = "budget_exceeded"

    async def _round(self) -> bool:
        """Every row that waits, once. False if none waited."""
        window, clock = self.runner.window, self.runner.clock
        self.stuck, self.moved, last, any_row = False, False, 0, False
        self.purse.new_round()
        waiting: list[Pending] = []
        chunks: set[asyncio.Task[None]] = set()
        window.start(clock.now())
        exhausted = False
        try:
            while True:
                self._look()
                if self.stop and not chunks:
                    return any_row
                room = 0 if self.stop else self._room()
                if room > 0 and len(waiting) < room and not exhausted:
                    more = await self._stored(
                        partial(self.runner.batches.pending, self.batch.id, last, 4 * CHUNK)
                    )
                    last = more[-1].line if more else last
                    exhausted = not more
                    waiting += [row for row in more if row.line not in self.refused]
                    continue
                if room > 0 and waiting:
                    any_row = True
                    rows, waiting = _cut(waiting, room)
                    self.out += len(rows)
                    chunks.add(asyncio.create_task(self._chunk(rows, self._share(len(rows)))))
                    continue
                if not chunks:
                    return any_row
                done, chunks = await asyncio.wait(chunks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in chunks:
                task.cancel()
            await asyncio.gather(*chunks, return_exceptions=True)

    def _room(self) -> int:
        """How many rows may leave now."""
        if self.purse.alone:
            return 0 if self.out else 1
        size = self.runner.window.size
        if self.out >= size:
            return 0
        # Chunks of a fraction of the window: it empties and fills evenly.
        return self.purse.affords(min(CHUNK, max(1, size // 4)))

    def _look(self) -> None:
        """What stops us, if anything does."""
        if self.stop is None and self.runner.clock.now() >= self.batch.expires_at:
            self.stop = "expired"
        if self.stop is None and self.purse.is_empty:
            self.stop = "budget_exceeded"

    def _share(self, rows: int) -> _Share:
        """Taken before anything else may leave."""
        waiting = self.batch.rows - self.batch.done - self.batch.failed
        at_once = min(self.runner.window.size, waiting)
        cap = self.purse.take(rows, at_once)
        return _Share(cap, self.purse.is_all(cap))

    async def _chunk(self, rows: Sequence[Pending], share: _Share) -> None:
        """Ask what must be asked, and record what became of each row."""
        going, outcomes = await self._allowed(rows)
        wanted: dict[str, list[tuple[Pending, Row]]] = {}
        async with self.reading:
            file = self.batch.spec.input_file
            texts = await self._stored(partial(export.texts, self.runner.files, file, going))
        read = []
        for pending, text in zip(going, texts, strict=True):
            try:
                read.append((pending, read_row(text, self.batch.spec.model)))
            except FusionError as error:
                outcomes.append(Outcome(pending.line, error=failure(error)))
        await self._learn_names({row.request.model for _, row in read})
        for pending, row in read:
            key = content_key(row.request, self.names[row.request.model], row.sample)
            wanted.setdefault(key, []).append((pending, row))
        # Claimed before looking: a key that is free now is kept already, or nobody's.
        claimed = [key for key in wanted if key not in self.asking]
        self.asking.update(claimed)
        try:
            async with self.reading:
                known = await self._stored(
                    partial(self.runner.batches.known, self.batch.project, claimed)
                )
            mine = [key for key in claimed if key not in known]
            earlier = set(self.refused)
            replies = await self._ask({key: wanted[key][0][1] for key in mine}, share)
            if any(isinstance(reply, Overloaded) for reply in replies):
                self.runner.window.overloaded(self.runner.clock.now())
            new: dict[str, Completion] = {}
            for key, reply in zip(mine, replies, strict=True):
                (pending, row), *same = wanted[key]
                outcome = self._outcome(pending, key, reply, share.of(row))
                if isinstance(reply, Completion):
                    new[key] = reply
                    outcomes += [Outcome(other.line, key, reused=True) for other, _ in same]
                if outcome is not None:
                    outcomes.append(outcome)
            if new:
                # All the money was too little for these, and not for one asked after them.
                outcomes += [self.refused.pop(line) for line in earlier & self.refused.keys()]
            elif len(self.refused) >= _MOST_REFUSED:
                self.stop = self.stop or "budget_exceeded"
            for key in known:
                outcomes += [Outcome(one.line, key, reused=True) for one, _ in wanted[key]]
            self.purse.returned(share.cap, len(rows), [answers.cost(one) for one in new.values()])
            await self._record(outcomes, new, len(rows))
        finally:
            self.asking.difference_update(claimed)
            self.out -= len(rows)

    async def _learn_names(self, names: set[str]) -> None:
        """What stands behind each name, once a run: a batch is answered by one installation."""
        if new := sorted(names - self.names.keys()):
            self.names |= zip(new, await self.runner.asker.stands_for(new), strict=True)

    async def _allowed(self, rows: Sequence[Pending]) -> tuple[list[Pending], list[Outcome]]:
        """Of these rows those that wait for no person, and the end of those that one refused."""
        waiting = {row.line: self.parked[row.line] for row in rows if row.line in self.parked}
        said = {one: await self._said(one) for one in set(waiting.values())}
        going, refused = [], []
        for row in rows:
            approval = waiting.get(row.line)
            if approval is not None:
                seen = said[approval]
                if seen["state"] in ("rejected", "expired"):
                    error = PolicyDenied(f"{seen['sentence']} {seen['error']['message']}")
                    refused.append(Outcome(row.line, error=failure(error)))
                    continue
                if seen["run"] == "parked":
                    self.stuck = True
                    continue
                del self.parked[row.line]  # what was parked has run: its answer is under its key
            going.append(row)
        return going, refused

    async def _said(self, approval: str) -> dict[str, Any]:
        assert self.runner.approvals is not None
        return await self._stored(partial(self.runner.approvals.read, approval, self.batch.project))

    async def _ask(self, rows: dict[str, Row], share: _Share) -> list[Completion | FusionError]:
        """A reply for each of these rows, in their order."""
        if not rows:
            return []
        now = self.runner.clock.now()
        base = Call(
            project=self.batch.project,
            key=self.batch.spec.key,
            job=self.batch.id,
            priority=self.batch.spec.priority,
        )
        asks: list[Ask] = [
            (
                row.request,
                replace(
                    base,
                    id=new_id("req"),
                    deadline=min(
                        self.batch.expires_at,
                        now + min(ROW_S, row.asked.extension.deadline_s or ROW_S),
                    ),
                    cost_cap_nano_usd=share.of(row).cap,
                    metadata=row.asked.metadata,
                    # One that a person allows goes on by itself, and is asked again from here.
                    idempotency_key=f"{self.batch.id} {key}",
                ),
            )
            for key, row in rows.items()
        ]
        try:
            return await self.runner.asker.ask_many(asks)
        except FusionError as error:
            return [error] * len(rows)

    def _outcome(
        self, row: Pending, key: str, reply: Completion | FusionError, share: _Share
    ) -> Outcome | None:
        """None: the row waits as it did."""
        match reply:
            case Completion():
                self.moved, self.moved_at = True, self.runner.clock.now()
                self.purse.alone = False
                return Outcome(row.line, key)
            case BudgetExceeded(is_cap=True) if share.is_own:
                return Outcome(row.line, error=failure(reply))
            case BudgetExceeded() if share.is_all or share.is_own:
                log.info("line %d: %s", row.line, reply.message)
                self.refused[row.line] = Outcome(row.line, error=failure(reply))
                return None
            case BudgetExceeded() if share.cap is not None:
                self.purse.refused(share.cap)
                return None
            case ApprovalNeeded(approval=approval) if self.runner.approvals and approval:
                log.info("line %d waits for a person: %s", row.line, reply.message)
                self.parked[row.line] = approval
                self.stuck = True
                return None
            case Overloaded():
                # We asked for too much at once: no fault of the row.
                self.stuck = True
                return None
            case Unavailable() if not self.moved and not self._is_worn(row):
                # Nothing is answered: whatever is down is waited for.
                self.stuck = True
                return None
            case Unavailable() | DeadlineExceeded() if row.tries + 1 < TRIES:
                self.stuck = True
                return Outcome(row.line)
            case _:
                return Outcome(row.line, error=failure(reply))

    def _is_worn(self, row: Pending) -> bool:
        return row.tries > 0 and self.runner.clock.now() - self.moved_at > _OUTAGE_S

    async def _record(self, outcomes: list[Outcome], new: dict[str, Completion], rows: int) -> None:
        async with self.recording:
            self.batch = counts = _counted(self.batch, outcomes, new)
            totals = {
                "done": counts.done,
                "failed": counts.failed,
                "reused": counts.reused,
                "nano_usd": counts.nano_usd,
                "tokens": dict(counts.tokens),
                "running": self.out - rows,
            }
            # These answers were paid for.
            record = partial(self.runner.batches.record, self.batch, self.runner.name)
            self._hear(await self._stored(partial(record, outcomes, new, totals)))
        before = self.runner.window.size
        self.runner.window.ended(rows, self.runner.clock.now())
        if self.runner.window.size != before:
            log.info("%d rows at work at once", self.runner.window.size)

    async def _stored(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the store says. One that does not answer is waited for."""
        until = self.runner.clock.now() + _STORE_S
        while True:
            try:
                return await ask()
            except StoreUnavailable as error:
                if self.runner.clock.now() > until:
                    raise
                log.warning("waiting for the store: %s", error.message)
                await self.runner.clock.sleep(1.0)

    # The end

    async def _finish(self) -> None:
        """Write the output files, and enter the last state."""
        why = self.stop
        await self._enter("finalizing", running=0)
        output, errors = await export.write_files(
            self.runner.batches, self.runner.files, self.batch, why
        )
        state: State = (
            "completed" if why is None else "expired" if why == "expired" else "cancelled"
        )
        before = (self.batch.output_file, self.batch.error_file)
        await self._enter(state, why=why, output_file=output, error_file=errors)
        # Those of an earlier end: the new ones have all that stood in them.
        await self.runner.files.remove(name for name in before if name is not None)


def _cut(waiting: list[Pending], rows: int) -> tuple[list[Pending], list[Pending]]:
    """The first of these that make one chunk, and the rest."""
    taken, size = 0, 0
    for row in waiting[:rows]:
        size += row.size
        if taken and size > _CHUNK_BYTES:
            break
        taken += 1
    return waiting[:taken], waiting[taken:]


def _counted(batch: Batch, outcomes: list[Outcome], new: dict[str, Completion]) -> Batch:
    """The batch's counts after a chunk."""
    used = dict(batch.tokens)
    for completion in new.values():
        for model, (more_in, more_out) in answers.tokens(completion).items():
            so_far = used.get(model, (0, 0))
            used[model] = (so_far[0] + more_in, so_far[1] + more_out)
    return replace(
        batch,
        done=batch.done + sum(one.key is not None for one in outcomes),
        failed=batch.failed + sum(one.error is not None for one in outcomes),
        reused=batch.reused + sum(one.reused for one in outcomes),
        nano_usd=batch.nano_usd + sum(map(answers.cost, new.values())),
        tokens=used,
    )
