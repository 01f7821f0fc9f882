"""Runs of server tools that cost something, paid from a real till."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import stores

from models.answerer import SystemClock
from models.call import Call
from models.messages import Tool
from models.tools.toolbox import Box, ToolResult
from serve.money import usage
from serve.money.bank import Bank
from serve.money.fees import TillFees
from serve.money.ledger import Limit
from serve.money.till import Till
from serve.store.database import Database

CENT = 10_000_000
DAY = {"key:k": Limit(day=3 * CENT)}


@dataclass
class Search:
    """Costs a cent."""

    spec: Tool = field(default_factory=lambda: Tool("web_search", "Finds."))
    max_uses: int | None = None
    nano_usd: int = CENT

    def limited(self, parameters: Mapping[str, Any]) -> Search:
        return self

    async def run(self, arguments: Mapping[str, Any]) -> ToolResult:
        return ToolResult("found", nano_usd=self.nano_usd)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with stores.empty(f"sqlite:///{tmp_path}/fusion.db") as made:
        yield made


@pytest.fixture
async def till(database: Database, tmp_path: Path) -> AsyncIterator[Till]:
    till = Till(Bank(database, SystemClock()), tmp_path, lambda: DAY)
    await till.open()
    yield till
    await till.close()


async def test_a_search_is_in_the_ledger_and_never_passes_a_limit(
    till: Till, database: Database
) -> None:
    box = Box({"web_search": Search()}, fees=TillFees(till))
    call = Call("req_1", key="k", role="panelist")
    told = [await box.call("web_search", f'{{"query": "{n}"}}', call) for n in range(5)]
    assert [one.is_error for one in told] == [False, False, False, True, True]
    assert "key:k" in told[-1].text
    await till.flush()
    rows = await usage.rows(database, usage.Question(by=("tier", "model", "key", "role")))
    [row] = rows
    assert tuple(row.group.values()) == ("tool", "web_search", "k", "panelist")
    assert (row.calls, row.nano_usd) == (3, 3 * CENT)


async def test_what_a_request_may_cost_covers_its_searches_too(till: Till) -> None:
    box = Box({"web_search": Search()}, fees=TillFees(till))
    call = Call("req_1", cost_cap_nano_usd=2 * CENT)
    told = [await box.call("web_search", f'{{"query": "{n}"}}', call) for n in range(3)]
    assert [one.is_error for one in told] == [False, False, True]
    assert till.left(call, 2 * CENT) == 0
