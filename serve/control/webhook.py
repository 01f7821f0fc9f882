"""Tells the operator's webhook of approvals, signed, until it has heard.

Each notice is a POST of JSON with the header `x-fusion-signature: t=SECONDS,v1=HEX`, where HEX is
HMAC-SHA256 of `SECONDS.BODY` under the secret of the environment variable that the catalog names.
A notice that fails is sent again, later and later, for about a day. It may arrive twice: its `id`
says so.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import aiohttp
import httpx
import sqlalchemy as sa

from models.answerer import Clock
from models.errors import StoreUnavailable
from models.policies import Approvals
from serve.store.database import Database
from serve.store.schema import notices

LOOK_S = 1.0
TIMEOUT_S = 10.0
#: Seconds until the next attempt, doubled each time.
FIRST_WAIT_S = 5.0
ATTEMPTS = 15
LONGEST_WAIT_S = 3600.0 * 6


def signature(secret: str, at: int, body: bytes) -> str:
    """The value of the header."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class Webhook:
    """`settings` gives the catalog's section in force. `client` belongs to somebody else."""

    def __init__(
        self,
        database: Database,
        settings: Callable[[], Approvals],
        client: httpx.AsyncClient,
        clock: Clock,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._database = database
        self._settings = settings
        self._client = client
        self._clock = clock
        self._environ = environ

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with suppress(StoreUnavailable):
                while await self.send_one():
                    pass
            await self._clock.sleep(LOOK_S)

    async def send_one(self) -> bool:
        """Send one notice that is due. False if there is none."""
        settings = self._settings()
        if settings.webhook is None or (notice := await self._take()) is None:
            return False
        if await self._sent(settings, notice) or notice["attempts"] + 1 >= ATTEMPTS:
            async with self._database.write() as connection:
                await connection.execute(sa.delete(notices).where(notices.c.id == notice["id"]))
        return True

    async def _take(self) -> Mapping[str, Any] | None:
        """A notice that is due, and its next attempt set: whoever dies with it loses nothing."""
        now = self._clock.now()
        due = notices.c.due_at <= round(now * 1e6)
        async with self._database.read() as connection:
            query = sa.select(notices).where(due).order_by(notices.c.due_at).limit(1)
            notice = (await connection.execute(query)).mappings().one_or_none()
        if notice is None:
            return None
        wait = min(FIRST_WAIT_S * 2 ** notice["attempts"], LONGEST_WAIT_S)
        same = (notices.c.id == notice["id"]) & (notices.c.due_at == notice["due_at"])
        async with self._database.write() as connection:
            taken = await connection.execute(
                sa.update(notices)
                .where(same)
                .values(attempts=notice["attempts"] + 1, due_at=round((now + wait) * 1e6))
            )
        return dict(notice) if taken.rowcount == 1 else await self._take()

    async def _sent(self, settings: Approvals, notice: Mapping[str, Any]) -> bool:
        secret = self._environ.get(settings.webhook_key_env or "", "")
        body = json.dumps({"id": notice["id"], **notice["body"]}, ensure_ascii=False).encode()
        headers = {
            "content-type": "application/json",
            "x-fusion-signature": signature(secret, round(self._clock.now()), body),
        }
        assert settings.webhook is not None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._client.post(settings.webhook, content=body, headers=headers)
        except (httpx.HTTPError, aiohttp.ClientError, OSError, TimeoutError):
            return False
        return answer.is_success
