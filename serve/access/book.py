"""The keys where they are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from models.answerer import Clock
from models.errors import Conflict, NotFound
from serve.access import keys
from serve.access.caller import Scope
from serve.access.keys import Key
from serve.store import schema
from serve.store.database import Database


class KeyBook:
    """`pepper` is the installation's secret. Every method may raise StoreUnavailable."""

    def __init__(self, database: Database, pepper: bytes, clock: Clock) -> None:
        self._database = database
        self._pepper = pepper
        self._clock = clock

    async def create(
        self,
        *,
        project: str = "default",
        name: str = "",
        scopes: frozenset[Scope] = frozenset(("use",)),
        models: tuple[str, ...] | None = None,
        expires_at: float | None = None,
    ) -> tuple[Key, str]:
        """A new key, and its whole text, which is nowhere to be had again."""
        made, text = self._new(Key("", "", project, name, scopes, models, expires_at=expires_at))
        async with self._database.write() as connection:
            await connection.execute(sa.insert(schema.keys).values(**_row(made)))
        return made, text

    async def rotate(self, key_id: str, grace_s: float) -> tuple[Key, str]:
        """A new key in this one's place, which goes on for `grace_s`. Raises NotFound, and
        Conflict where its end is set already: it must not be put off."""
        now = self._clock.now()
        old = await self.get(key_id)
        if old.state(now) != "active":
            raise NotFound(f"The key '{key_id}' is not active; create a new one.")
        made, text = self._new(old)
        ends = {"replaced_by": made.id, "revoked_at": int((now + grace_s) * 1e6)}
        goes_on = (schema.keys.c.id == key_id, schema.keys.c.revoked_at.is_(None))
        async with self._database.write() as connection:
            change = sa.update(schema.keys).where(*goes_on).values(**ends)
            if not (await connection.execute(change)).rowcount:
                raise Conflict(f"The key '{key_id}' is replaced or revoked already.")
            await connection.execute(sa.insert(schema.keys).values(**_row(made)))
        return made, text

    def _new(self, like: Key) -> tuple[Key, str]:
        """A key with the rights of this one."""
        public, text = keys.new()
        digest, now = keys.digest(self._pepper, text), self._clock.now()
        made = replace(like, id=public, digest=digest, created_at=now)
        return replace(made, revoked_at=None, replaced_by=None), text

    async def revoke(self, key_id: str) -> None:
        """From now on it opens nothing. Raises NotFound."""
        await self._update(key_id, revoked_at=int(self._clock.now() * 1e6))

    async def get(self, key_id: str) -> Key:
        found = await self.find(key_id)
        if found is None:
            raise NotFound(f"There is no key '{key_id}'.")
        return found

    async def find(self, key_id: str) -> Key | None:
        async with self._database.read() as connection:
            query = sa.select(schema.keys).where(schema.keys.c.id == key_id)
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else _key(row)

    async def list(self) -> list[Key]:
        """All that there ever were, the newest first."""
        async with self._database.read() as connection:
            query = sa.select(schema.keys).order_by(schema.keys.c.created_at.desc())
            return [_key(row) for row in await connection.execute(query)]

    async def any(self) -> bool:
        """Whether there ever was a key. Revoked ones count: the door that a first key closed
        must not open again when the last one is revoked."""
        async with self._database.read() as connection:
            query = sa.select(sa.literal(1)).select_from(schema.keys).limit(1)
            return (await connection.execute(query)).scalar() is not None

    async def _update(self, key_id: str, **values: Any) -> None:
        async with self._database.write() as connection:
            change = sa.update(schema.keys).where(schema.keys.c.id == key_id)
            if not (await connection.execute(change.values(**values))).rowcount:
                raise NotFound(f"There is no key '{key_id}'.")


def _row(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "digest": key.digest,
        "project": key.project,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "models": None if key.models is None else list(key.models),
        "created_at": int(key.created_at * 1e6),
        "expires_at": None if key.expires_at is None else int(key.expires_at * 1e6),
    }


def _key(row: Any) -> Key:
    made = Key(**row._mapping)
    return replace(
        made,
        scopes=frozenset(row.scopes),
        models=None if row.models is None else tuple(row.models),
        created_at=row.created_at / 1e6,
        expires_at=None if row.expires_at is None else row.expires_at / 1e6,
        revoked_at=None if row.revoked_at is None else row.revoked_at / 1e6,
    )
