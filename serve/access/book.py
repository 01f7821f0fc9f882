"""The keys where they are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from models.answerer import Clock
from models.errors import NotFound
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
        public, text = keys.new()
        made = Key(
            id=public,
            digest=keys.digest(self._pepper, text),
            project=project,
            name=name,
            scopes=scopes,
            models=models,
            created_at=self._clock.now(),
            expires_at=expires_at,
        )
        async with self._database.write() as connection:
            await connection.execute(sa.insert(schema.keys).values(**_row(made)))
        return made, text

    async def rotate(self, key_id: str, grace_s: float) -> tuple[Key, str]:
        """A new key in this one's place, which goes on for `grace_s`. Raises NotFound."""
        ends_at = int((self._clock.now() + grace_s) * 1e6)
        old = await self.get(key_id)
        if old.state(self._clock.now()) != "active":
            raise NotFound(f"The key '{key_id}' is not active; create a new one.")
        made, text = await self.create(
            project=old.project,
            name=old.name,
            scopes=old.scopes,
            models=old.models,
            expires_at=old.expires_at,
        )
        await self._update(key_id, replaced_by=made.id, revoked_at=ends_at)
        return made, text

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
