"""Answers that later requests may go on from (`previous_response_id`): the door's `Memory`."""

from __future__ import annotations

import sqlalchemy as sa

from models.answerer import Clock
from models.errors import NotFound
from models.messages import Completion, Message
from serve.access.caller import Caller
from serve.control import neutral
from serve.store.database import Database
from serve.store.schema import responses


class StoredAnswers:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def recall(self, identity: str, who: Caller) -> tuple[Message, ...]:
        query = sa.select(responses.c.conversation).where(
            (responses.c.project == who.project) & (responses.c.id == identity)
        )
        async with self._database.read() as connection:
            found = (await connection.execute(query)).scalar_one_or_none()
        if found is None:
            raise _none(identity, "previous_response_id")
        return tuple(map(neutral.message, found))

    async def keep(
        self, identity: str, conversation: tuple[Message, ...], answer: Completion, who: Caller
    ) -> None:
        row = {
            "project": who.project,
            "id": identity,
            "at": round(self._clock.now() * 1e6),
            "conversation": [neutral.write(m) for m in (*conversation, answer.message)],
        }
        insert = self._database.insert(responses).values(row)
        async with self._database.write() as connection:
            # A stream that is told twice of its end keeps its answer once.
            await connection.execute(
                insert.on_conflict_do_nothing(index_elements=["project", "id"])
            )

    async def forget(self, identity: str, who: Caller) -> None:
        """For good. Raises NotFound, also for another project's."""
        mine = (responses.c.project == who.project) & (responses.c.id == identity)
        async with self._database.write() as connection:
            gone = await connection.execute(sa.delete(responses).where(mine))
        if not gone.rowcount:
            raise _none(identity)


def _none(identity: str, param: str | None = None) -> NotFound:
    return NotFound(f"There is no stored response 'resp_{identity[:64]}'.", param=param)
