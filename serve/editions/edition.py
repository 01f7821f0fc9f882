"""The catalog in force in this process, and whatever is built from it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from models.answerer import Answerer
from models.catalog import Catalog
from serve.editions.history import History, Version

log = logging.getLogger(__name__)

#: How often a process looks for a newer version.
LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Edition:
    """One version of the catalog with what answers under it.

    `models` answers for concrete models and aliases of models, `pipeline` for every name.
    """

    catalog: Catalog
    models: Answerer
    pipeline: Answerer
    version: int = 0


class Current(Protocol):
    """Where the edition of this moment is found. Ask at the moment of use; keep only what one
    request needs: what it began with, it ends with."""

    @property
    def current(self) -> Edition: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """An edition that never changes."""

    current: Edition


class Editions:
    """Follows the store: swaps one reference when there is a newer version.

    A version that cannot be built here (a key that is not in this process's environment) is not
    taken, loudly: the old one goes on. `follow` hears of the catalog in force.
    """

    def __init__(
        self,
        history: History,
        make: Callable[[Catalog, int], Edition],
        follow: Callable[[Catalog], None],
        look_s: float = LOOK_S,
    ) -> None:
        self._history = history
        self._make = make
        self._follow = follow
        self._look_s = look_s
        self._current: Edition | None = None
        self._refused = 0
        #: Why the newest version is not in force here, if so.
        self.problem: str | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def current(self) -> Edition:
        assert self._current is not None, "not started"
        return self._current

    async def start(self, file: Catalog) -> None:
        """Take what the store says, or `file` where it says nothing, and follow it from now on.

        Raises what makes the catalog unusable here.
        """
        found = await self._history.ruling(file)
        self._current = self._make(found.catalog, found.version)
        self._follow(found.catalog)
        self._watch = asyncio.create_task(self._look())

    def check(self, catalog: Catalog) -> None:
        """See whether this catalog can be built here. Raises what makes it unusable."""
        try:
            self._make(catalog, 0)
        finally:
            self._follow(self.current.catalog)

    async def refresh(self) -> None:
        """Look for a newer version now."""
        version = await self._history.newest_version()
        if version in (self.current.version, self._refused):
            return
        newest = await self._history.newest()
        if newest is not None:
            self._take(newest)

    def _take(self, newest: Version) -> None:
        try:
            self._current = self._make(newest.catalog, newest.version)
            self.problem = None
        except ValueError as error:  # such as a key that is missing here
            self._refused = newest.version
            self.problem = f"version {newest.version} of the catalog: {error}"
            log.error("cannot take %s", self.problem)
        self._follow(self.current.catalog)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            try:
                await self.refresh()
            except Exception as error:  # whatever it is, the next look may succeed
                log.warning("the catalog's versions cannot be read: %s", error)

    async def aclose(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
