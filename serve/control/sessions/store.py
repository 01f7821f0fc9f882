"""Sessions and their items. An item is a message with a place; it never changes.

What is acknowledged is committed: items of one append get their places in the same transaction,
in the order in which appends end.
"""

from __future__ import annotations

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
from serve.store.database import Database
from serve.store.schema import session_items as items
from serve.store.schema import session_summaries as summaries
from serve.store.schema import sessions

PAGE = 100
#: Rows of one insert: databases bound the number of values in a statement.
CHUNK = 200
MOST_ITEMS = 100_000
_MICROS = 1_000_000


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
        async with self._database.write() as connection:
            await connection.execute(sa.insert(sessions).values(row))
            row["length"] = await self._append(connection, identity, new, "")
        return shown(row)

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
        async with self._database.write() as connection:
            head = await self._head(connection, identity, project, lock=True)
            if head["archived"]:
                raise Conflict(f"Session {identity} is archived. Fork it, or unarchive it.")
            return await self._append(connection, identity, new, turn)

    async def history(self, identity: str, project: str) -> History:
        async with self._database.read() as connection:
            head = await self._head(connection, identity, project)
            if head["archived"]:
                raise Conflict(f"Session {identity} is archived. Fork it, or unarchive it.")
            query = sa.select(summaries).where(summaries.c.session == identity)
            query = query.order_by(summaries.c.upto.desc()).limit(1)
            short = (await connection.execute(query)).mappings().one_or_none()
            upto = -1 if short is None else short["upto"]
            found = await connection.execute(
                sa.select(items.c.position, items.c.message, items.c.model)
                .where((items.c.session == identity) & (items.c.position > upto))
                .order_by(items.c.position)
            )
            told = tuple(
                Item(row.position, neutral.message(row.message), row.model) for row in found
            )
        return History(told, "" if short is None else short["text"], upto)

    async def answered(self, identity: str, turn: str) -> Completion | None:
        """The answer of a turn that was kept already."""
        query = sa.select(items.c.answer).where(
            (items.c.session == identity) & (items.c.turn == turn) & items.c.answer.is_not(None)
        )
        async with self._database.read() as connection:
            found = (await connection.execute(query.limit(1))).scalar_one_or_none()
        return None if found is None else neutral.completion(found)

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

    async def _append(
        self, connection: AsyncConnection, identity: str, new: Sequence[New], turn: str
    ) -> int:
        now = round(self._clock.now() * _MICROS)
        grown = await connection.execute(
            sa.update(sessions)
            .where(sessions.c.id == identity)
            .values(length=sessions.c.length + len(new), updated_at=now)
            .returning(sessions.c.length)
        )
        length: int = grown.scalar_one()
        if length > MOST_ITEMS:
            raise BadRequest(f"A session has at most {MOST_ITEMS:,} items. Begin another one.")
        rows = [
            {
                "session": identity,
                "position": length - len(new) + at,
                "id": new_id("item"),
                "at": now,
                "message": neutral.write(one.message),
                "model": one.model,
                "turn": turn,
                "answer": None if one.answer is None else neutral.write(one.answer),
            }
            for at, one in enumerate(new)
        ]
        for start in range(0, len(rows), CHUNK):
            await connection.execute(sa.insert(items), rows[start : start + CHUNK])
        return length

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
            raise NotFound(f"There is no session '{identity}'. Create it: POST /v1/sessions.")
        return dict(row)

    async def _summarised(self, connection: AsyncConnection, identity: str) -> int:
        query = sa.select(sa.func.max(summaries.c.upto)).where(summaries.c.session == identity)
        upto = (await connection.execute(query)).scalar_one_or_none()
        return -1 if upto is None else upto


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
