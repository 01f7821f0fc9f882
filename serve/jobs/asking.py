"""How a batch asks: many requests in one message, each through the whole pipeline."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from models.call import Call
from models.catalog import Catalog
from models.errors import DeadlineExceeded, FusionError, UpstreamError
from models.messages import Completion, Request
from serve.editions.edition import Current

log = logging.getLogger(__name__)

#: Requests of low priority that one gateway lets through while a person waits for another.
FEW = 4
_LOOK_S = 0.05

Ask = tuple[Request, Call]
Reply = Completion | FusionError


class Asker(Protocol):
    async def ask_many(self, asks: list[Ask]) -> list[Reply]:
        """A reply for each, in their order. Raises a FusionError where nobody could be asked."""
        ...

    async def stands_for(self, names: list[str]) -> list[str]:
        """What answers to each of these names now, in words that change when it does."""
        ...


@dataclass(slots=True)
class Desk:
    """Answers many requests at once. `waiting` counts the people who wait for answers here."""

    editions: Current
    waiting: Callable[[], int]
    now: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    #: Requests of low priority that are at work.
    behind: int = 0

    async def ask_many(self, asks: Sequence[Ask]) -> list[Reply]:
        return list(await asyncio.gather(*(self._ask(*ask) for ask in asks)))

    def stands_for(self, names: Sequence[str]) -> list[str]:
        catalog = self.editions.current.catalog
        return [stands_for(catalog, name) for name in names]

    async def _ask(self, request: Request, call: Call) -> Reply:
        low = call.priority == "low"
        if not self.editions.current.catalog.policies:
            # Only what a person must allow comes twice, and the key costs two transactions.
            call = replace(call, idempotency_key=None)
        try:
            async with asyncio.timeout(call.remaining_s(self.now())):
                while low and self.behind >= FEW and self.waiting():
                    await self.sleep(_LOOK_S)
                self.behind += low
                began = self.now()
                try:
                    found = await self.editions.current.pipeline.complete(request, call)
                    # Stages of a panel overlap: their sum is not the time it took.
                    took = {"seconds": self.now() - began}
                    return replace(found, extension={**found.extension, **took})
                finally:
                    self.behind -= low
        except TimeoutError:
            return DeadlineExceeded("The deadline of this request has passed.")
        except FusionError as error:
            return error
        except Exception as error:  # a bug of ours must not take the other rows with it
            log.exception("a row failed")
            return UpstreamError(f"Internal error: {type(error).__name__}.")


def stands_for(catalog: Catalog, name: str) -> str:
    """What answers to this name: a model's name, or a panel with all its members."""
    target = catalog.resolve(name)
    if target is None or target.kind in ("auto", "plan"):
        return name
    if target.kind == "model":
        return target.name
    panel = catalog.panels[target.name].model_dump(mode="json")
    behind = [catalog.model_behind(member.model) for member in catalog.panels[target.name].members]
    roles = [catalog.judge_of(target.name), catalog.writer_of(target.name)]
    return json.dumps([panel, behind, roles], sort_keys=True)
