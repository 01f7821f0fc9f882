"""The same key twice is one answer and one charge, also at the same time and after a restart.

Who comes first holds the key for a short time, and again and again while at work; who comes later
waits for the answer. A holder that died is followed by the next one who asks. Failures are not
kept: what failed may be tried again under the same key.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import aclosing
from typing import Any

import sqlalchemy as sa

from models.answerer import Answerer, Clock, Events, as_events
from models.call import Call, new_id
from models.errors import BadRequest, StoreUnavailable
from models.messages import Completion, Done, Request
from serve.control import neutral
from serve.control.sweep import KEPT_S
from serve.store.database import Database
from serve.store.schema import repeats

HELD_S = 15.0
LOOK_S = 0.1
_MICROS = 1_000_000


class Idempotent:
    """Once, where the call has an idempotency key; straight through, where it has none."""

    def __init__(self, inner: Answerer, database: Database, clock: Clock) -> None:
        self._inner = inner
        self._database = database
        self._clock = clock

    async def complete(self, request: Request, call: Call) -> Completion:
        if call.idempotency_key is None:
            return await self._inner.complete(request, call)
        holder = new_id("hold")
        if (known := await self._enter(request, call, holder)) is not None:
            return known
        at_it = asyncio.create_task(self._at_it(call, holder))
        try:
            answer = await self._inner.complete(request, call)
            await self._keep(call, holder, answer)
        except BaseException:
            await asyncio.shield(self._leave(call, holder))
            raise
        finally:
            at_it.cancel()
        return answer

    async def stream(self, request: Request, call: Call) -> Events:
        if call.idempotency_key is None:
            async with aclosing(self._inner.stream(request, call)) as events:
                async for event in events:
                    yield event
            return
        holder = new_id("hold")
        if (known := await self._enter(request, call, holder)) is not None:
            for event in as_events(known):
                yield event
            return
        at_it = asyncio.create_task(self._at_it(call, holder))
        kept = False
        try:
            async with aclosing(self._inner.stream(request, call)) as events:
                async for event in events:
                    if isinstance(event, Done):
                        await self._keep(call, holder, event.completion)
                        kept = True
                    yield event
        except BaseException:
            if not kept:
                await asyncio.shield(self._leave(call, holder))
            raise
        finally:
            at_it.cancel()

    async def _enter(self, request: Request, call: Call, holder: str) -> Completion | None:
        """The answer that is kept under the key; or None, and `holder` now holds the key."""
        digest = _digest(request, call)
        while True:
            row = await self._row(call)
            now = self._clock.now()
            old = row is not None and row["at"] <= round((now - KEPT_S) * _MICROS)
            if row is not None and not old:
                if call.resumed:
                    # What was parked goes on under its key, perhaps as the rest of a plan.
                    digest = row["digest"]
                if row["digest"] != digest:
                    raise BadRequest(
                        "This idempotency key was used with another request. Take a new key.",
                        param="idempotency-key",
                    )
                if row["answer"] is not None:
                    return neutral.completion(row["answer"])
                if row["held_until"] > round(now * _MICROS):
                    call.remaining_s(now)
                    await self._clock.sleep(LOOK_S)
                    continue
            if await self._take(call, holder, digest, row):
                return None

    async def _row(self, call: Call) -> dict[str, Any] | None:
        async with self._database.read() as connection:
            found = await connection.execute(sa.select(repeats).where(_mine(call)))
            row = found.mappings().one_or_none()
        return None if row is None else dict(row)

    async def _take(
        self, call: Call, holder: str, digest: str, seen: dict[str, Any] | None
    ) -> bool:
        now = round(self._clock.now() * _MICROS)
        row = {
            "digest": digest,
            "at": now,
            "holder": holder,
            "held_until": now + round(HELD_S * _MICROS),
            "answer": None,
        }
        async with self._database.write() as connection:
            if seen is not None:
                # Only if nobody else took it since it was seen.
                same = (repeats.c.holder == seen["holder"]) & (
                    repeats.c.held_until == seen["held_until"]
                )
                taken = await connection.execute(
                    sa.update(repeats).where(_mine(call) & same).values(row)
                )
                return taken.rowcount == 1
            insert = self._database.insert(repeats)
            insert = insert.values(project=call.project, key=call.idempotency_key, **row)
            made = await connection.execute(
                insert.on_conflict_do_nothing(index_elements=["project", "key"])
            )
            return made.rowcount == 1

    async def _at_it(self, call: Call, holder: str) -> None:
        while True:
            await self._clock.sleep(HELD_S / 3)
            until = round((self._clock.now() + HELD_S) * _MICROS)
            try:
                await self._change(call, holder, held_until=until)
            except StoreUnavailable:
                continue  # there are two more tries before the time is over

    async def _keep(self, call: Call, holder: str, answer: Completion) -> None:
        await self._change(call, holder, answer=neutral.write(answer))

    async def _leave(self, call: Call, holder: str) -> None:
        """Nothing came of it: the next one may try at once."""
        try:
            await self._change(call, holder, held_until=0)
        except StoreUnavailable:
            return  # then when the time is over

    async def _change(self, call: Call, holder: str, **changes: Any) -> None:
        async with self._database.write() as connection:
            await connection.execute(
                sa.update(repeats).where(_mine(call) & (repeats.c.holder == holder)).values(changes)
            )


def _mine(call: Call) -> sa.ColumnElement[bool]:
    return (repeats.c.project == call.project) & (repeats.c.key == call.idempotency_key)


def _digest(request: Request, call: Call) -> str:
    told = {"request": neutral.write(request), "session": call.session}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
