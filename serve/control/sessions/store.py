"""Sessions and their items. An item is a message with a place; it never changes.

What is acknowledged is committed: items of one append get their places in the same transaction,
in the order in which appends end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from models.answerer import Clock
from models.call import new_id
from models.errors import BadRequest, Conflict, NotFound
from models.messages import Completion, Message
from serve.control import neutral
from serve.control.sweep import KEPT_S
from serve.store.database import Database
from serve.store.schema import session_items as items
from serve.store.schema import session_summaries as summaries
from serve.store.schema import sessions
from serve.store.steps import ALONE, READ, How, Steps

PAGE = 100
MOST_ITEMS = 100_000
_MICROS = 1_000_000
_SESSION = """
insert into sessions (id, project, name, created_at, updated_at, archived, parent, length)
values (?, ?, ?, ?, ?, ?, ?, ?)
"""
#: Whoever has grown it keeps it from all others until the end of the transaction.
_GROW = """
update sessions set length = length + ?, updated_at = ?
where id = ? and project = ? and not archived and length + ? <= ?
returning id, length
"""
#: PostgreSQL's, with its items in one statement.
_GROW_BY = """
with grown as ({grow}), added as (
    insert into session_items (session, position, id, at, message, model, turn, answer)
    select grown.id, length + place - ?, item, ?, message, model, ?, answer
    from grown, unnest(
        cast(? as text[]), cast(? as json[]), cast(? as text[]), cast(? as json[])
    ) with ordinality as new (item, message, model, answer, place)
)
select id, length from grown
"""
_ITEM = """
insert into session_items (session, position, id, at, message, model, turn, answer)
values (?, ?, ?, ?, ?, ?, ?, ?)
"""
_HEAD = "select archived from sessions where id = ? and project = ?"
_ANSWER = """
select answer from session_items where session = ? and turn = ? and at > ? and answer is not null
"""
#: Its items behind the last summary; one row without an item, where there is none.
_HISTORY = """
with head as (
    select id, archived,
    (select max(upto) from session_summaries where session = sessions.id) as upto
    from sessions where id = ? and project = ?
)
select archived, upto, position, message, model from head
left join session_items on session = head.id and position > coalesce(upto, -1)
order by position
"""
_SUMMARY = "select text from session_summaries where session = ? and upto = ?"


@dataclass(frozen=True, slots=True)
class New:
    """A message to append, and who wrote it, where a model did."""

    message: Message
    model: str | None = None
    #: The whole answer that the message is of.
    answer: Completion | None = None


@dataclass(frozen=True, slots=True)
class Item:
    position: int
    message: Message
    model: str | None


@dataclass(frozen=True, slots=True)
class History:
    """What a session's next turn goes on from: a summary of all up to `upto`, and what follows."""

    items: tuple[Item, ...]
    summary: str = ""
    upto: int = -1


class Sessions:
    """Another project's session is not there."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self, project: str, name: str = "", new: Sequence[New] = (), parent: str | None = None
    ) -> dict[str, Any]:
        identity, now = new_id("ses"), round(self._clock.now() * _MICROS)
        row = {
            "id": identity,
            "project": project,
            "name": name,
            "created_at": now,
            "updated_at": now,
            "archived": False,
            "parent": parent,
            "length": 0,
        }

        def steps() -> Steps[int]:
            yield _SESSION, tuple(row.values())
            return (yield from self._append(identity, project, new, ""))

        return shown({**row, "length": await self._database.run(steps())})

    async def newest(
        self, project: str, *, archived: bool = False, before: str | None = None, limit: int = 20
    ) -> list[dict[str, Any]]:
        """A page, the newest first; `before` is the id of the last one of the page before."""
        mine = (sessions.c.project == project) & (sessions.c.archived == archived)
        order = (sessions.c.created_at.desc(), sessions.c.id.desc())
        async with self._database.read() as connection:
            if before is not None:
                last = await self._head(connection, before, project)
                place = sa.tuple_(sessions.c.created_at, sessions.c.id)
                mine &= place < sa.tuple_(last["created_at"], last["id"])
            query = sa.select(sessions).where(mine).order_by(*order).limit(limit)
            return [shown(dict(row)) for row in (await connection.execute(query)).mappings()]

    async def read(self, identity: str, project: str) -> dict[str, Any]:
        async with self._database.read() as connection:
            return shown(await self._head(connection, identity, project))

    async def page(
        self, identity: str, project: str, after: int = -1, limit: int = PAGE
    ) -> list[dict[str, Any]]:
        """Items behind the place `after`."""
        async with self._database.read() as connection:
            await self._head(connection, identity, project)
            found = await connection.execute(
                sa.select(items)
                .where((items.c.session == identity) & (items.c.position > after))
                .order_by(items.c.position)
                .limit(limit)
            )
            rows = found.mappings().all()
            upto = await self._summarised(connection, identity)
        return [shown_item(dict(row), upto) for row in rows]

    async def append(self, identity: str, project: str, new: Sequence[New], turn: str = "") -> int:
        """The session's new length. Raises Conflict for an archived one."""
        return await self._database.run(self._append(identity, project, new, turn), ALONE)

    async def keep(self, identity: str, project: str, new: Sequence[New], turn: str) -> None:
        """Append a turn that may be kept already: its process died, or was taken for dead."""

        def steps() -> Steps[None]:
            if not (yield _ANSWER, (identity, turn, self._since())):
                yield from self._append(identity, project, new, turn)

        await self._database.run(steps(), How(locks=(f"{identity} {turn}",)))

    async def answered(self, identity: str, project: str, turn: str) -> Completion | None:
        """The answer of a turn that was kept already."""

        def steps() -> Steps[Completion | None]:
            if not (yield _HEAD, (identity, project)):
                raise _no_session(identity)
            found = yield _ANSWER, (identity, turn, self._since())
            return neutral.completion(json.loads(found[0][0])) if found else None

        return await self._database.run(steps(), READ)

    async def history(self, identity: str, project: str) -> History:
        def steps() -> Steps[History]:
            rows = yield _HISTORY, (identity, project)
            if not rows:
                raise _no_session(identity)
            archived, upto, *_ = rows[0]
            if archived:
                raise _archived(identity)
            told = tuple(
                Item(position, neutral.message(json.loads(message)), model)
                for _, _, position, message, model in rows
                if position is not None
            )
            if upto is None:
                return History(told)
            ((text,),) = yield _SUMMARY, (identity, upto)
            return History(told, text, upto)

        return await self._database.run(steps(), READ)

    async def summarise(self, identity: str, upto: int, text: str, model: str) -> None:
        """Keep a summary of all items up to this place. The items stay as they are."""
        row = {"session": identity, "upto": upto, "text": text, "model": model}
        insert = self._database.insert(summaries).values(row)
        async with self._database.write() as connection:
            await connection.execute(
                insert.on_conflict_do_nothing(index_elements=["session", "upto"])
            )

    async def fork(
        self, identity: str, project: str, item: str | None = None, name: str | None = None
    ) -> dict[str, Any]:
        """A new session with all items up to and with `item`; with all, where none is named."""
        async with self._database.read() as connection:
            head = await self._head(connection, identity, project)
            last = head["length"] - 1
            if item is not None:
                place = await connection.execute(
                    sa.select(items.c.position).where(
                        (items.c.session == identity) & (items.c.id == item)
                    )
                )
                found = place.scalar_one_or_none()
                if found is None:
                    raise BadRequest(f"Session {identity} has no item '{item}'.", param="item")
                last = found
            rows = await connection.execute(
                sa.select(items)
                .where((items.c.session == identity) & (items.c.position <= last))
                .order_by(items.c.position)
            )
            copies = [New(neutral.message(row["message"]), row["model"]) for row in rows.mappings()]
        return await self.create(project, name or head["name"], copies, parent=identity)

    async def change(
        self, identity: str, project: str, *, name: str | None = None, archived: bool | None = None
    ) -> dict[str, Any]:
        given = {"name": name, "archived": archived}
        changes = {key: value for key, value in given.items() if value is not None}
        async with self._database.write() as connection:
            head = await self._head(connection, identity, project, lock=True)
            if changes:
                this = sessions.c.id == identity
                await connection.execute(sa.update(sessions).where(this).values(changes))
            return shown({**head, **changes})

    async def delete(self, identity: str, project: str) -> None:
        """For good, with all its items."""
        async with self._database.write() as connection:
            await self._head(connection, identity, project, lock=True)
            for table in (items, summaries):
                await connection.execute(sa.delete(table).where(table.c.session == identity))
            await connection.execute(sa.delete(sessions).where(sessions.c.id == identity))

    def _since(self) -> int:
        """An older turn is another one: an idempotency key may be used again after a while."""
        return round((self._clock.now() - KEPT_S) * _MICROS)

    def _append(self, identity: str, project: str, new: Sequence[New], turn: str) -> Steps[int]:
        now = round(self._clock.now() * _MICROS)
        more = len(new)
        grow = (more, now, identity, project, more, MOST_ITEMS)
        rows = [
            (
                new_id("item"),
                neutral.dumps(one.message),
                one.model,
                None if one.answer is None else neutral.dumps(one.answer),
            )
            for one in new
        ]
        if self._database.is_sqlite:
            grown = yield _GROW, grow
            for _, length in grown:
                places = enumerate(rows, length - more)
                yield (
                    _ITEM,
                    [
                        (identity, at, item, now, message, model, turn, answer)
                        for at, (item, message, model, answer) in places
                    ],
                )
        else:
            columns = zip(*rows, strict=True) if rows else ((), (), (), ())
            grown = yield (
                _GROW_BY.format(grow=_GROW),
                (*grow, more + 1, now, turn, *map(list, columns)),
            )
        if not grown:
            found = yield _HEAD, (identity, project)
            if not found:
                raise _no_session(identity)
            if found[0][0]:
                raise _archived(identity)
            raise BadRequest(f"A session has at most {MOST_ITEMS:,} items. Begin another one.")
        return int(grown[0][1])

    async def _head(
        self, connection: AsyncConnection, identity: str, project: str, *, lock: bool = False
    ) -> Mapping[str, Any]:
        query = sa.select(sessions).where(
            (sessions.c.id == identity) & (sessions.c.project == project)
        )
        if lock:
            query = query.with_for_update()
        row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise _no_session(identity)
        return dict(row)

    async def _summarised(self, connection: AsyncConnection, identity: str) -> int:
        query = sa.select(sa.func.max(summaries.c.upto)).where(summaries.c.session == identity)
        upto = (await connection.execute(query)).scalar_one_or_none()
        return -1 if upto is None else upto


def _no_session(identity: str) -> NotFound:
    return NotFound(f"There is no session '{identity}'. Create it: POST /v1/sessions.")


def _archived(identity: str) -> Conflict:
    return Conflict(f"Session {identity} is archived. Fork it, or unarchive it.")


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A session as a caller sees it."""
    return {
        "id": row["id"],
        "object": "session",
        "name": row["name"],
        "created_at": row["created_at"] / _MICROS,
        "updated_at": row["updated_at"] / _MICROS,
        "archived": bool(row["archived"]),
        "parent": row["parent"],
        "length": row["length"],
    }


def shown_item(row: Mapping[str, Any], upto: int) -> dict[str, Any]:
    return {
        "id": row["id"],
        "object": "session.item",
        "position": row["position"],
        "at": row["at"] / _MICROS,
        "model": row["model"],
        "message": row["message"],
        #: Whether models get it in short, as part of a summary.
        "summarised": row["position"] <= upto,
    }
