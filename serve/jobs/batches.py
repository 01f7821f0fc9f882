"""Batches where they are kept. What one runner changes, no other one can change meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from models.answerer import Clock
from models.call import new_id
from models.errors import BadRequest, NotFound
from models.messages import Completion
from serve.jobs import answers as codec
from serve.jobs.batch import ENDED, Batch, Spec, State, Why, micro, seconds
from serve.jobs.rows import Failure
from serve.store.database import Database
from serve.store.schema import answers, batch_rows, batches

#: How many unreadable lines a batch remembers with their reasons.
MAX_ERRORS = 100


class NotOurs(Exception):
    """Another runner has taken this batch over; whoever gets this stops, and changes nothing."""


@dataclass(frozen=True, slots=True)
class NewRow:
    """A line of the input as it is first seen. `error`: it cannot be read."""

    line: int
    id: str
    start: int
    size: int
    error: Failure | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """A row that waits for its answer."""

    line: int
    id: str
    start: int
    size: int
    tries: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row. Without `key` and `error` it stays pending."""

    line: int
    key: str | None = None
    reused: bool = False
    error: Failure | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A row with what it got, as exports read it."""

    line: int
    id: str
    start: int
    size: int
    state: str
    reused: bool
    error: Failure | None
    completion: Completion | None


class Batches:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, project: str, spec: Spec) -> Batch:
        now = self._clock.now()
        made = Batch(
            new_id("batch"),
            project,
            now,
            now + seconds(spec.window),
            "validating",
            spec,
            times={"validating": now},
        )
        async with self._database.write() as connection:
            await connection.execute(
                sa.insert(batches).values(
                    id=made.id,
                    project=project,
                    at=micro(now),
                    expires_at=micro(made.expires_at),
                    state=made.state,
                    spec=asdict(spec),
                    times=made.times,
                    tokens={},
                    errors=[],
                )
            )
        return made

    async def get(self, project: str | None, batch: str) -> Batch:
        """`project` None: of any, for the runner alone."""
        async with self._database.read() as connection:
            return await self._found(connection, project, batch)

    async def page(self, project: str, after: str | None, limit: int) -> tuple[list[Batch], bool]:
        """The newest first, and whether there are more."""
        query = sa.select(batches).where(batches.c.project == project)
        if after is not None:
            last = await self.get(project, after)
            place = (micro(last.created_at), last.id)
            query = query.where(sa.tuple_(batches.c.at, batches.c.id) < place)
        query = query.order_by(batches.c.at.desc(), batches.c.id.desc()).limit(limit + 1)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [_batch(row) for row in rows[:limit]], len(rows) > limit

    async def forget(self, batch: str) -> None:
        """One that nobody could be found for has never been."""
        async with self._database.write() as connection:
            await connection.execute(sa.delete(batches).where(batches.c.id == batch))

    async def started(self, batch: str, job: str) -> None:
        """It was handed to Ray under this name."""
        async with self._database.write() as connection:
            await connection.execute(
                sa.update(batches).where(batches.c.id == batch).values(job=job)
            )

    async def cancel(self, project: str, batch: str) -> Batch:
        """Ask its runner to stop. Raises BadRequest where it has ended."""
        async with self._database.write() as connection:
            # Locked: it may end between the look and the change.
            found = await self._found(connection, project, batch, lock=True)
            if found.has_ended:
                raise BadRequest(f"The batch has ended already: it is {found.state}.")
            if found.is_silent(self._clock.now()):
                # A runner that only seemed to be gone stops with its next change.
                columns = {"why": "cancelled", "running": 0, "runner": None}
                await self._move(connection, found, "cancelled", **columns)
            else:
                await self._move(connection, found, "cancelling")
        return await self.get(project, batch)

    async def reopen(self, project: str, batch: str, budget: int | None, window: str) -> Batch:
        """Make a batch that ended early, or whose runner is gone, ready for another runner.

        A new deadline of `window` from now. Raises BadRequest where there is nothing to do.
        """
        now = self._clock.now()
        async with self._database.write() as connection:
            found = await self._found(connection, project, batch, lock=True)
            if not found.has_ended and not found.is_silent(now):
                raise BadRequest(f"The batch is at work: it is {found.state}.")
            if found.state in ("completed", "failed"):
                raise BadRequest(f"The batch is {found.state}; there is nothing left to do.")
            spec = asdict(found.spec) | {"window": window}
            if budget is not None:
                spec["budget_nano_usd"] = budget
            await self._move(
                connection,
                found,
                "in_progress" if "in_progress" in found.times else "validating",
                why=None,
                runner=None,
                seen_at=micro(now),
                spec=spec,
                expires_at=micro(now + seconds(window)),
            )
        return await self.get(project, batch)

    async def take(self, batch: str, runner: str) -> Batch:
        """Become the one who works on it. Whoever did before is stopped by its next change."""
        async with self._database.write() as connection:
            await connection.execute(
                sa.update(batches)
                .where(batches.c.id == batch)
                .values(runner=runner, seen_at=micro(self._clock.now()), running=0)
            )
        return await self.get(None, batch)

    async def alive(self, batch: str, runner: str, running: int) -> State:
        """Say that the runner lives, and see which state others want it in. Raises NotOurs."""
        async with self._database.write() as connection:
            return await self._own(connection, batch, runner, {"running": running})

    async def add_rows(self, batch: str, runner: str, rows: Sequence[NewRow]) -> None:
        """Lines of the input. One that is known already is left as it is; one with the id of
        another line becomes a failed row of its own."""
        async with self._database.write() as connection:
            await self._own(connection, batch, runner, {})
            ids = [row.id for row in rows]
            known = {
                row.id: row.line
                for row in await connection.execute(
                    sa.select(batch_rows.c.id, batch_rows.c.line, batch_rows.c.error).where(
                        batch_rows.c.batch == batch, batch_rows.c.id.in_(ids)
                    )
                )
                if not _is_made_up(row)
            }
            values = []
            for row in rows:
                first = row.line if _is_made_up(row) else known.setdefault(row.id, row.line)
                if first != row.line:
                    said = f"The id '{row.id}' stands in line {first} already."
                    row = NewRow(
                        row.line,
                        f"line {row.line}: {row.id}",
                        row.start,
                        row.size,
                        ("duplicate_id", said, 400),
                    )
                values.append(
                    {
                        "batch": batch,
                        "line": row.line,
                        "id": row.id,
                        "start": row.start,
                        "size": row.size,
                        "state": "pending" if row.error is None else "failed",
                        "error": row.error,
                    }
                )
            await connection.execute(_insert(self._database, batch_rows), values)

    async def validated(self, batch: str, runner: str) -> Batch:
        """All lines are known: count them."""
        async with self._database.write() as connection:
            counts = await self._counts(connection, batch)
            bad = await connection.execute(
                sa.select(batch_rows.c.line, batch_rows.c.error)
                .where(batch_rows.c.batch == batch, batch_rows.c.state == "failed")
                .order_by(batch_rows.c.line)
                .limit(MAX_ERRORS)
            )
            errors = [[row.line, row.error[1]] for row in bad]
            await self._own(
                connection,
                batch,
                runner,
                {"rows": sum(counts.values()), "failed": counts.get("failed", 0), "errors": errors},
            )
        return await self.get(None, batch)

    async def pending(self, batch: str, after: int, limit: int) -> list[Pending]:
        """The next rows without an answer, in the order of their lines."""
        query = (
            sa.select(batch_rows)
            .where(
                batch_rows.c.batch == batch,
                batch_rows.c.state == "pending",
                batch_rows.c.line > after,
            )
            .order_by(batch_rows.c.line)
            .limit(limit)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [Pending(row.line, row.id, row.start, row.size, row.tries) for row in rows]

    async def known(self, project: str, keys: Iterable[str]) -> set[str]:
        """Those of the keys whose answers are kept."""
        query = sa.select(answers.c.key).where(
            answers.c.project == project, answers.c.key.in_(list(keys))
        )
        async with self._database.read() as connection:
            return set(await connection.scalars(query))

    async def record(
        self,
        batch: Batch,
        runner: str,
        outcomes: Sequence[Outcome],
        new: dict[str, Completion],
        totals: dict[str, Any],
    ) -> State:
        """A chunk's end in one transaction: new answers by key, what became of each row, and the
        batch's `totals` (columns of its own). Returns the state that others want it in.

        Raises NotOurs, and then nothing is changed.
        """
        now = micro(self._clock.now())
        async with self._database.write() as connection:
            state = await self._own(connection, batch.id, runner, totals)
            if new:
                values = [
                    {
                        "project": batch.project,
                        "key": key,
                        "at": now,
                        "completion": codec.dump(completion),
                    }
                    for key, completion in new.items()
                ]
                await connection.execute(_insert(self._database, answers), values)
            changes = [
                {
                    "at_batch": batch.id,
                    "at_line": one.line,
                    "to_state": "failed" if one.error else "done" if one.key else "pending",
                    "to_answer": one.key,
                    "to_reused": one.reused,
                    "to_error": one.error,
                    "more_tries": int(not (one.error or one.key)),
                }
                for one in outcomes
            ]
            if changes:
                await connection.execute(_CHANGE_ROW, changes)
        return state

    async def begin(self, batch: str, runner: str) -> State:
        """All lines are known. Returns the state that it is in now: whoever cancels it while it is
        validated is heard. Raises NotOurs."""
        async with self._database.write() as connection:
            state = await self._own(connection, batch, runner, {})
            found = await self._found(connection, None, batch)
            times = _times(found, "in_progress", self._clock.now())
            now: State = "cancelling" if state == "cancelling" else "in_progress"
            return await self._own(connection, batch, runner, {"state": now, "times": times})

    async def end(self, batch: str, runner: str, state: State, **columns: Any) -> None:
        """Enter a state. Raises NotOurs."""
        async with self._database.write() as connection:
            times = _times(await self._found(connection, None, batch), state, self._clock.now())
            await self._own(connection, batch, runner, {"state": state, "times": times} | columns)

    async def results(self, batch: str, after: int, limit: int) -> list[Result]:
        """Rows with their answers, in the order of their lines."""
        query = (
            sa.select(batch_rows, answers.c.completion)
            .select_from(
                batch_rows.join(batches, batches.c.id == batch_rows.c.batch).outerjoin(
                    answers,
                    (answers.c.project == batches.c.project)
                    & (answers.c.key == batch_rows.c.answer),
                )
            )
            .where(batch_rows.c.batch == batch, batch_rows.c.line > after)
            .order_by(batch_rows.c.line)
            .limit(limit)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [
            Result(
                row.line,
                row.id,
                row.start,
                row.size,
                row.state,
                row.reused,
                None if row.error is None else tuple(row.error),
                None if row.completion is None else codec.load(row.completion),
            )
            for row in rows
        ]

    async def _own(
        self, connection: AsyncConnection, batch: str, runner: str, columns: dict[str, Any]
    ) -> State:
        """Change columns of a batch that this runner works on; returns its state."""
        state: State | None = await connection.scalar(
            sa.update(batches)
            .where(batches.c.id == batch, batches.c.runner == runner)
            .values(seen_at=micro(self._clock.now()), **columns)
            .returning(batches.c.state)
        )
        if state is None:
            raise NotOurs(batch)
        return state

    async def _found(
        self, connection: AsyncConnection, project: str | None, batch: str, *, lock: bool = False
    ) -> Batch:
        query = sa.select(batches).where(batches.c.id == batch)
        if project is not None:
            query = query.where(batches.c.project == project)
        row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
        if row is None:
            raise NotFound(f"There is no batch '{batch}'. GET /v1/batches lists them.")
        return _batch(row)

    async def _move(
        self, connection: AsyncConnection, found: Batch, state: State, **columns: Any
    ) -> None:
        times = _times(found, state, self._clock.now())
        await connection.execute(
            sa.update(batches)
            .where(batches.c.id == found.id)
            .values(state=state, times=times, **columns)
        )

    async def _counts(self, connection: AsyncConnection, batch: str) -> dict[str, int]:
        rows = await connection.execute(
            sa.select(batch_rows.c.state, sa.func.count())
            .where(batch_rows.c.batch == batch)
            .group_by(batch_rows.c.state)
        )
        return dict(rows.tuples().all())


_CHANGE_ROW = (
    sa.update(batch_rows)
    .where(
        batch_rows.c.batch == sa.bindparam("at_batch"),
        batch_rows.c.line == sa.bindparam("at_line"),
    )
    .values(
        state=sa.bindparam("to_state"),
        answer=sa.bindparam("to_answer"),
        reused=sa.bindparam("to_reused"),
        error=sa.bindparam("to_error"),
        tries=batch_rows.c.tries + sa.bindparam("more_tries"),
    )
)


def _insert(database: Database, table: sa.Table) -> Any:
    """An insert that leaves a row which is there already as it is."""
    made = sqlite.insert(table) if database.is_sqlite else postgresql.insert(table)
    return made.on_conflict_do_nothing()


def _is_made_up(row: NewRow | sa.Row[Any]) -> bool:
    """Whether a line that cannot be read is only called so: another line may really be."""
    return row.error is not None and row.id.startswith(f"line {row.line}")


def _times(batch: Batch, state: State, now: float) -> dict[str, float]:
    """When it entered each state, once it enters this one."""
    # A batch that is resumed has not ended, and began when it first did.
    kept = {name: at for name, at in batch.times.items() if name not in ENDED}
    return kept | {state: kept.get(state, now)}


def _batch(row: sa.Row[Any]) -> Batch:
    raw = dict(row.spec)
    raw["models"] = None if raw["models"] is None else tuple(raw["models"])
    why: Why | None = row.why
    return Batch(
        id=row.id,
        project=row.project,
        created_at=row.at / 1e6,
        expires_at=row.expires_at / 1e6,
        state=row.state,
        spec=Spec(**raw),
        why=why,
        runner=row.runner,
        seen_at=None if row.seen_at is None else row.seen_at / 1e6,
        job=row.job,
        times=row.times,
        rows=row.rows,
        done=row.done,
        failed=row.failed,
        running=row.running,
        reused=row.reused,
        nano_usd=row.nano_usd,
        tokens={model: (used[0], used[1]) for model, used in row.tokens.items()},
        errors=tuple((line, said) for line, said in row.errors),
        output_file=row.output_file,
        error_file=row.error_file,
    )
