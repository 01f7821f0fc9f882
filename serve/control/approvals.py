"""The durable record of what persons are asked, and of the request that waits for their word.

An approval is pending, then approved, rejected or expired, and never changes again. Behind it
waits one request; it runs once it is approved, by whichever process takes it first. A process
takes it for a short time and says again and again that it is still at it, so a request whose
process died is taken by another; and only who holds it may say how it ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from models.answerer import Clock
from models.call import Call, new_id
from models.errors import BadRequest, Conflict, FusionError, NotFound
from models.messages import Completion, Request
from serve.control import neutral
from serve.control.counters import Counters
from serve.control.policy.engine import Ruling
from serve.control.policy.values import Ceiling
from serve.store.database import Database
from serve.store.schema import approvals, notices

#: How long a process holds an approved request without saying that it is still at it.
HELD_S = 15.0
_MICROS = 1_000_000


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person says, and who it is. With neither `once` nor a ceiling, each policy's own
    proposal counts."""

    approve: bool
    by: str
    origin: str
    note: str = ""
    #: Let this one request pass, and change nothing else.
    once: bool = False
    #: The new ceiling, in the units of the policy that asks.
    ceiling: float | None = None


class Approvals:
    def __init__(self, database: Database, counters: Counters, clock: Clock) -> None:
        self._database = database
        self._counters = counters
        self._clock = clock

    async def ask(
        self, ruling: Ruling, request: Request, call: Call, expires_s: float, *, tell: bool
    ) -> tuple[str, bool] | None:
        """The id of the approval that stands for this ask, and whether it is a new one, behind
        which `request` waits. The same ask twice is one approval.

        None where somebody has raised a ceiling since the ruling: it is to be judged again."""
        now = self._clock.now()
        asking = [
            {
                "policy": said.policy,
                "reason": said.verdict.reason,
                **_ceiling(said.verdict.ceiling),
            }
            for said in ruling.objections
        ]
        # Where nothing is counted, it is this request that is asked about, however often it comes.
        this = call.idempotency_key or call.id
        asks = ", ".join(f"{one['policy']}: {one.get('counter', this)}" for one in asking)
        row = {
            "id": new_id("apv"),
            "project": call.project,
            "key": call.key,
            "session": call.session,
            "created_at": _micros(now),
            "expires_at": _micros(now + expires_s),
            "state": "pending",
            "asks": asks,
            "sentence": f"{ruling.reason} A person must allow it.",
            "policies": asking,
            "work": {"request": neutral.write(request), "call": neutral.write(call)},
            "run": "parked",
        }
        same = (approvals.c.project == call.project) & (approvals.c.asks == asks)
        pending = approvals.c.state == "pending"
        # Two processes may ask at the same moment: the index lets one of them in.
        for _ in range(3):
            async with self._database.write() as connection:
                await self._expire(connection, now, tell=tell)
                found = await connection.execute(sa.select(approvals.c.id).where(same & pending))
                if (known := found.scalar_one_or_none()) is not None:
                    return str(known), False
                if (known := await self._going_on(connection, same, call)) is not None:
                    return known, False
                if await self._raised(connection, ruling):
                    return None
                try:
                    async with connection.begin_nested():
                        await connection.execute(sa.insert(approvals).values(row))
                except IntegrityError:
                    continue
                if tell:
                    await _tell(connection, row, now)
                return str(row["id"]), True
        raise Conflict("The same approval is being asked for elsewhere. Try again.")

    async def decide(
        self, identity: str, decision: Decision, project: str | None, *, tell: bool
    ) -> dict[str, Any]:
        """The approval, decided. Raises NotFound, also for another project's; Conflict where it
        is decided or expired; BadRequest for a ceiling that does not fit."""
        now = self._clock.now()
        late: str | None = None
        async with self._database.write() as connection:
            row = await self._row(connection, identity, project, lock=True)
            if row["state"] == "pending" and row["expires_at"] <= _micros(now):
                await self._expire(connection, now, tell=tell)
                late = "expired"
            elif row["state"] != "pending":
                late = row["state"]
            else:
                changes: dict[str, Any] = {
                    "state": "approved" if decision.approve else "rejected",
                    "decided_at": _micros(now),
                    "decided_by": decision.by,
                    "decided_from": decision.origin,
                    "note": decision.note,
                }
                if decision.approve:
                    changes["granted"] = await self._grant(connection, row, decision)
                else:
                    changes["run"] = "failed"
                    changes["error"] = {"code": "rejected", "message": _rejected(decision.note)}
                await connection.execute(
                    sa.update(approvals).where(approvals.c.id == identity).values(changes)
                )
                if tell:
                    await _tell(connection, {**row, **changes}, now)
                return shown({**row, **changes})
        raise Conflict(f"Approval {identity} is {late} already.")

    async def read(self, identity: str, project: str | None) -> dict[str, Any]:
        """One approval as it is now. Raises NotFound."""
        async with self._database.read() as connection:
            row = await self._row(connection, identity, project)
        return shown(_as_of(row, self._clock.now()))

    async def newest(
        self, project: str | None, state: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """The newest ones, of one project or of all."""
        columns, now = approvals.c, self._clock.now()
        query = sa.select(approvals).order_by(columns.created_at.desc()).limit(limit)
        if project is not None:
            query = query.where(columns.project == project)
        if state is not None:
            late = (columns.state == "pending") & (columns.expires_at <= _micros(now))
            is_so = columns.state == state
            query = query.where((is_so | late) if state == "expired" else is_so & ~late)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [shown(_as_of(row, now)) for row in rows]

    async def take(self, runner: str, identity: str | None = None) -> dict[str, Any] | None:
        """An approved request that waits and that nobody runs, now held by `runner`: any, or the
        one behind this approval."""
        now = _micros(self._clock.now())
        free = (approvals.c.state == "approved") & (approvals.c.run == "parked")
        free &= approvals.c.runner.is_(None) | (approvals.c.runs_until <= now)
        if identity is not None:
            free &= approvals.c.id == identity
        async with self._database.read() as connection:
            found = await connection.execute(sa.select(approvals.c.id).where(free).limit(1))
            if (wanted := found.scalar_one_or_none()) is None:
                return None  # as nearly always, without a write
        async with self._database.write() as connection:
            taken = await connection.execute(
                sa.update(approvals)
                .where(free & (approvals.c.id == wanted))
                .values(runner=runner, runs_until=now + _micros(HELD_S))
            )
            if taken.rowcount != 1:
                return None
            return dict(await self._row(connection, wanted, None))

    async def still(self, identity: str, runner: str) -> bool:
        """Say that `runner` is still at it. False if it holds the request no more."""
        until = _micros(self._clock.now() + HELD_S)
        return await self._change(identity, runner, {"runs_until": until})

    async def done(self, identity: str, runner: str, answer: Completion) -> bool:
        """Keep the answer. False if `runner` did not hold the request: nothing is kept."""
        changes = {"run": "done", "answer": neutral.write(answer), "runner": None}
        return await self._change(identity, runner, changes)

    async def failed(self, identity: str, runner: str, error: FusionError) -> bool:
        told = {"code": error.code, "message": error.message}
        return await self._change(identity, runner, {"run": "failed", "error": told})

    async def sweep(self, *, tell: bool) -> None:
        """Close what has expired."""
        now = self._clock.now()
        old = (approvals.c.state == "pending") & (approvals.c.expires_at <= _micros(now))
        async with self._database.read() as connection:
            if (await connection.execute(sa.select(approvals.c.id).where(old))).first() is None:
                return
        async with self._database.write() as connection:
            await self._expire(connection, now, tell=tell)

    async def _going_on(
        self, connection: Any, same: sa.ColumnElement[bool], call: Call
    ) -> str | None:
        """The approval behind which this very request, told by its key, was allowed and has not
        run yet. Its answer comes under the key, so nobody needs to be asked again."""
        if call.idempotency_key is None:
            return None
        allowed = same & (approvals.c.state == "approved") & (approvals.c.run == "parked")
        for row in await connection.execute(
            sa.select(approvals.c.id, approvals.c.work).where(allowed)
        ):
            if row.work["call"].get("idempotency_key") == call.idempotency_key:
                return str(row.id)
        return None

    async def _raised(self, connection: Any, ruling: Ruling) -> bool:
        """Whether a ceiling is another one than this ruling rests on. Read after looking for what
        is pending: an approval leaves that state in the transaction that raises its ceilings."""
        seen = {
            one.verdict.ceiling.counter: one.verdict.ceiling.seen
            for one in ruling.objections
            if one.verdict.ceiling is not None
        }
        now = await self._counters.values(connection, seen)
        return any(now.get(name, 0) != value for name, value in seen.items())

    async def _expire(self, connection: Any, now: float, *, tell: bool) -> None:
        old = (approvals.c.state == "pending") & (approvals.c.expires_at <= _micros(now))
        rows = (await connection.execute(sa.select(approvals).where(old))).mappings().all()
        for row in rows:
            changes = {
                "state": "expired",
                "run": "failed",
                "error": {"code": "expired", "message": "Nobody decided in time."},
            }
            await connection.execute(
                sa.update(approvals)
                .where((approvals.c.id == row["id"]) & (approvals.c.state == "pending"))
                .values(changes)
            )
            if tell:
                await _tell(connection, {**row, **changes}, now)

    async def _change(self, identity: str, runner: str, changes: dict[str, Any]) -> bool:
        mine = (approvals.c.id == identity) & (approvals.c.runner == runner)
        mine &= approvals.c.run == "parked"
        async with self._database.write() as connection:
            changed = await connection.execute(sa.update(approvals).where(mine).values(changes))
            return changed.rowcount == 1

    async def _grant(
        self, connection: Any, row: Mapping[str, Any], decision: Decision
    ) -> list[str]:
        """Raise the ceilings. The policies whose ask counts as allowed for this request: a person
        has said that it shall run, whatever else was counted meanwhile."""
        asking: list[dict[str, Any]] = row["policies"]
        everybody = [one["policy"] for one in asking]
        raisable = [one for one in asking if "counter" in one]
        if decision.once or not raisable:
            if decision.ceiling is not None:
                raise BadRequest("There is no ceiling to raise here.", param="ceiling")
            return everybody
        if decision.ceiling is not None and len(raisable) > 1:
            names = ", ".join(one["policy"] for one in raisable)
            raise BadRequest(f"Several ceilings are asked for ({names}).", param="ceiling")
        for one in raisable:
            value = one["proposed"]
            if decision.ceiling is not None:
                value = round(decision.ceiling * one["per_unit"])
                if not 0 < value < 2**62:
                    raise BadRequest("The ceiling must be above 0.", param="ceiling")
            await self._counters.put(connection, one["counter"], value)
        return everybody

    async def _row(
        self, connection: Any, identity: str, project: str | None, *, lock: bool = False
    ) -> Mapping[str, Any]:
        query = sa.select(approvals).where(approvals.c.id == identity)
        if lock:
            query = query.with_for_update()
        found = (await connection.execute(query)).mappings().one_or_none()
        if found is None or (project is not None and found["project"] != project):
            raise NotFound(f"There is no approval '{identity}'.")
        row: Mapping[str, Any] = found
        return row


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """An approval as a caller sees it."""
    return {
        "id": row["id"],
        "object": "approval",
        "state": row["state"],
        "project": row["project"],
        "key": row["key"],
        "session": row["session"],
        "created_at": row["created_at"] / _MICROS,
        "expires_at": row["expires_at"] / _MICROS,
        "sentence": row["sentence"],
        "asks": [
            {
                "policy": one["policy"],
                "reason": one["reason"],
                "proposed_ceiling": one["proposed"] / one["per_unit"] if "counter" in one else None,
                "unit": one.get("unit"),
            }
            for one in row["policies"]
        ],
        "model": row["work"]["request"]["model"],
        #: The plan that goes on once it is approved, if it is one that waits.
        "plan": row["work"]["request"].get("plan", {}).get("resume"),
        "decided_at": None if (at := row.get("decided_at")) is None else at / _MICROS,
        "decided_by": row.get("decided_by"),
        "decided_from": row.get("decided_from"),
        "note": row.get("note"),
        "run": row["run"],
        "answer": row.get("answer"),
        "error": row.get("error"),
    }


def _as_of(row: Any, now: float) -> Mapping[str, Any]:
    """An expired approval is expired before anybody has written so."""
    if row["state"] == "pending" and row["expires_at"] <= _micros(now):
        return {**row, "state": "expired"}
    return dict(row)


async def _tell(connection: Any, row: Mapping[str, Any], now: float) -> None:
    """Have the webhook told, in the transaction that it is told of."""
    told = {
        "type": f"approval.{row['state']}",
        "created": now,
        # What was asked of the model is nobody's business on the way.
        "data": {key: value for key, value in shown(row).items() if key != "answer"},
    }
    notice = {"id": new_id("evt"), "body": told, "attempts": 0, "due_at": _micros(now)}
    await connection.execute(sa.insert(notices).values(notice))


def _ceiling(ceiling: Ceiling | None) -> dict[str, Any]:
    if ceiling is None:
        return {}
    return {
        "counter": ceiling.counter,
        "proposed": ceiling.proposed,
        "unit": ceiling.unit,
        "per_unit": ceiling.per_unit,
    }


def _rejected(note: str) -> str:
    return f"A person rejected the request: {note}" if note else "A person rejected the request."


def _micros(seconds: float) -> int:
    return round(seconds * _MICROS)
