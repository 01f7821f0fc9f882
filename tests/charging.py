"""A process that charges: many calls at once to a provider, paid from a till of its own, until
somebody kills it.   python tests/charging.py STORE UPSTREAM FOLDER LIMIT_USD
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from upstream import OUTPUT, PRICE, PROMPT

from models.answerer import SystemClock
from models.call import Call
from models.errors import FusionError
from models.flagship.answerer import Flagship
from models.flagship.client import new_connections
from models.messages import Request, Sampling, user
from models.spec import OpenAIModel
from serve.money.bank import Bank
from serve.money.charge import Charge, Tariff
from serve.money.ledger import Limit
from serve.money.till import Till
from serve.store.database import Database

ASKED = Request("gpt", (user(PROMPT),), Sampling(max_tokens=OUTPUT))
AT_ONCE = 12


@asynccontextmanager
async def paying(
    database: Database, upstream: str, folder: Path, limits: Mapping[str, Limit]
) -> AsyncIterator[tuple[Charge, Till]]:
    """The model behind its charge, and the till that pays."""
    clock = SystemClock()
    till = Till(Bank(database, clock), folder, lambda: limits)
    connections = new_connections()
    spec = OpenAIModel(engine="openai", base_url=f"{upstream}/v1")
    charge = Charge(Flagship("gpt", spec, connections), Tariff("gpt", "flagship", PRICE), till)
    await till.open()
    try:
        yield charge, till
    finally:
        await till.close()
        await connections.aclose()


async def one(charge: Charge, number: int) -> None:
    """One call. Each fourth is a stream whose reader goes away in the middle."""
    if number % 4:
        await charge.complete(ASKED, Call())
        return
    async with aclosing(charge.stream(ASKED, Call())) as events:
        for _ in range(number % 11):
            await anext(events)


async def main(store: str, upstream: str, folder: str, limit: str) -> None:
    limits = {"all": Limit(total=int(limit) * 10**9)}
    async with paying(Database(store), upstream, Path(folder), limits) as (charge, _):

        async def on_and_on(number: int) -> None:
            while True:
                number += AT_ONCE
                try:
                    await one(charge, number)
                except FusionError:  # a limit, or a store that is down
                    await asyncio.sleep(0.02)

        await one(charge, 1)
        print("ready", flush=True)
        await asyncio.gather(*(on_and_on(number) for number in range(AT_ONCE)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
