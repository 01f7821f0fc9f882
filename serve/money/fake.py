"""A till that a test owns: no store, no limits, and it remembers what was settled."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.errors import FusionError
from serve.money.ledger import Entry
from serve.money.till import Hold


@dataclass
class FakeTill:
    """`refuse`, where set, is raised instead of reserving."""

    refuse: FusionError | None = None
    held: list[Hold] = field(default_factory=list)
    settled: list[Entry] = field(default_factory=list)

    async def reserve(self, entry: Entry, worst: int | None, cap: int | None = None) -> Hold:
        if self.refuse is not None:
            raise self.refuse
        hold = Hold(entry, worst or 0)
        self.held.append(hold)
        return hold

    def settle(self, hold: Hold, entry: Entry) -> None:
        self.held.remove(hold)
        self.settled.append(entry)
