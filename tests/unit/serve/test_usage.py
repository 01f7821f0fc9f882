"""What was spent: the questions, the sums, the route and the command."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import stores
from typer.testing import CliRunner

from models.answerer import SystemClock
from models.errors import BadRequest
from serve.access.caller import Caller
from serve.cli import app
from serve.gateway.rooms.usage import UsageRoom
from serve.gateway.site import site
from serve.money import usage
from serve.money.bank import Bank, Lease
from serve.money.journal import Left
from serve.money.ledger import Entry, Limit
from serve.store.database import Database

CENT = 10_000_000
MORNING = 1_795_593_600.0  # 2026-11-25T08:00:00Z
CATALOG = """
models: {gpt: {engine: fake, price: {input: 1, output: 1}}}
roles: {judge: gpt}
limits: {all: {total: 1}}
"""


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with stores.empty(f"sqlite:///{tmp_path}/fusion.db") as made:
        await stores.spend(made)
        yield made


async def ask(database: Database, *asked: tuple[str, str]) -> dict[str, Any]:
    return await usage.answer(database, usage.question(asked), {}, None)


async def test_sums_by_tier_and_shares(database: Database) -> None:
    answer = await ask(database)
    assert [(row["tier"], row["calls"], row["cost_usd"]) for row in answer["data"]] == [
        ("flagship", 3, "0.06"),
        ("workforce", 2, "0.02"),
    ]
    assert answer["total"]["cost_usd"] == "0.08"
    assert answer["total"]["input_tokens"] == 50
    assert answer["total"]["estimated_calls"] == 1
    assert answer["total"]["unpriced_calls"] == 1
    assert answer["shares"] == {
        "tier": {"flagship": 0.75, "workforce": 0.25},
        "part": {"work": 0.625, "brain": 0.375},
    }


async def test_the_brains_roles_are_told_apart_from_the_workforces(database: Database) -> None:
    answer = await ask(database, ("by", "part,role"))
    assert [(row["part"], row["role"], row["cost_usd"]) for row in answer["data"]] == [
        ("work", "panelist", "0.05"),
        ("brain", "judge", "0.03"),
    ]


async def test_over_time_days_and_months_are_utc_and_in_order(database: Database) -> None:
    answer = await ask(database, ("by", "day"), ("by", "tier"))
    assert [(row["day"], row["tier"], row["calls"]) for row in answer["data"]] == [
        ("2026-11-25", "flagship", 3),
        ("2026-11-25", "workforce", 1),
        ("2026-12-01", "workforce", 1),
    ]
    months = (await ask(database, ("by", "month")))["data"]
    assert [(row["month"], row["calls"]) for row in months] == [("2026-11", 4), ("2026-12", 1)]


@pytest.mark.parametrize(
    ("asked", "calls"),
    [
        ([("since", "2026-12-01")], 1),
        ([("until", "2026-11-25")], 4),
        ([("until", "2026-11")], 4),
        ([("since", "2026-11-25T09:00:00Z")], 1),
        ([("key", "k1")], 2),
        ([("project", "other"), ("model", "gpt")], 1),
        ([("project", "nobody")], 0),
    ],
)
async def test_a_question_may_be_narrowed(
    database: Database, asked: list[tuple[str, str]], calls: int
) -> None:
    assert (await ask(database, *asked))["total"]["calls"] == calls


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ([("by", "colour")], "cannot be told by 'colour'"),
        ([("since", "yesterday")], "'since' is not a time"),
        ([("until", "2026-13")], "'until' is not a time"),
        ([("porject", "x")], "Unknown parameter: 'porject'"),
        ([("key", "a"), ("key", "b")], "stands twice"),
        ([("project", "a\0b")], "'project' holds a zero character"),
        ([("since", "0001-01-01T00:00:00+14:00")], "'since' is not a time"),
        ([("until", "9999-12-31T23:59:59-10:00")], "'until' is not a time"),
        ([("until", "9999-12-31T23:59:59.999999")], "'until' is not a time"),
    ],
)
def test_a_wrong_question_is_told_what_is_wrong(asked: list[tuple[str, str]], says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        usage.question(asked)


async def test_accounts_with_a_limit_or_something_held_and_unknown_calls_are_shown(
    database: Database,
) -> None:
    bank = Bank(database, SystemClock())
    lease = await bank.lease("dead", ("all", "project:other"), {}, least=CENT, wanted=CENT)
    assert isinstance(lease, Lease)
    gone = Entry("led_9", MORNING, "req_9", "other", "flagship", "answer", "gpt")
    await bank.recover("dead", Left(open={lease.id: [(gone, CENT)]}), whole=True)
    answer = await usage.answer(
        database, usage.Question(), {"project:*": Limit(total=5 * CENT)}, None
    )
    shown = {one["account"]: one for one in answer["accounts"]}
    assert shown["all"] | {"settled_usd": "0.08", "held_usd": "0.01"} == shown["all"]
    assert shown["project:default"]["limit_total_usd"] == "0.05"
    assert "tier:flagship" not in shown
    assert [(one["id"], one["held_usd"]) for one in answer["unknown"]] == [("led_9", "0.01")]


async def over_http(
    database: Database, caller: Caller, query: str = ""
) -> tuple[int, dict[str, Any]]:
    async def guard(_: object) -> Caller:
        return caller

    served = site([UsageRoom(database, lambda: {})], guard)
    transport = httpx.ASGITransport(app=served)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get(f"/v1/usage{query}")
        return response.status_code, response.json()


async def test_the_route_shows_an_admin_all(database: Database) -> None:
    status, answer = await over_http(database, Caller(), "?by=project")
    assert status == 200
    assert {row["project"] for row in answer["data"]} == {"default", "other"}


async def test_the_route_shows_a_key_its_own_project_only(database: Database) -> None:
    mine = Caller(project="other", scopes=frozenset(("use",)))
    _, answer = await over_http(database, mine, "?by=project")
    assert [(row["project"], row["calls"]) for row in answer["data"]] == [("other", 1)]
    _, answer = await over_http(database, mine, "?project=default")
    assert answer["total"]["calls"] == 0
    assert "default" not in json.dumps(answer["accounts"])


async def test_the_route_names_what_is_wrong(database: Database) -> None:
    status, answer = await over_http(database, Caller(), "?by=colour")
    assert (status, answer["error"]["param"]) == (400, "by")


@pytest.fixture
def spent(tmp_path: Path) -> Callable[..., str]:
    """Runs `fusion usage` on a store in which something was spent."""
    file = tmp_path / "catalog.yaml"
    url = f"sqlite:///{tmp_path}/spent.db"
    file.write_text(f"server: {{store: '{url}'}}\n{CATALOG}")

    async def fill() -> None:
        async with stores.empty(url) as made:
            await stores.spend(made)

    asyncio.run(fill())

    def command(*words: str, status: int = 0) -> str:
        made = CliRunner().invoke(app, ["usage", "-c", str(file), *words])
        assert made.exit_code == status, made.output
        return made.output

    return command


def test_the_command_prints_a_table(spent: Callable[..., str]) -> None:
    output = spent("--by", "tier")
    assert "flagship" in output
    assert "0.08" in output
    assert "flagship 75.0%, workforce 25.0%" in output
    assert "1 in total" in output


def test_the_command_prints_csv_and_json(spent: Callable[..., str]) -> None:
    rows = list(csv.DictReader(io.StringIO(spent("--by", "model,day", "--csv"))))
    assert [(row["model"], row["day"], row["cost_usd"]) for row in rows] == [
        ("gpt", "2026-11-25", "0.06"),
        ("small", "2026-11-25", "0.02"),
        ("small", "2026-12-01", "0"),
    ]
    assert json.loads(spent("--json", "--only", "key=k1"))["total"]["calls"] == 2


def test_the_command_says_what_is_wrong(spent: Callable[..., str]) -> None:
    assert "cannot be told by 'colour'" in spent("--by", "colour", status=1)
    assert "no filter" in spent("--only", "key", status=2)


def test_a_name_is_shown_as_it_is(spent: Callable[..., str], tmp_path: Path) -> None:
    asyncio.run(book(f"sqlite:///{tmp_path}/spent.db", project="team [prod] [/x]"))
    assert "team [prod] [/x]" in spent("--by", "project")


async def book(url: str, project: str) -> None:
    database = Database(url)
    try:
        made = Entry("led_7", MORNING, "req_7", project, "flagship", "answer", "gpt", nano_usd=CENT)
        await Bank(database, SystemClock()).settle("", [(made, CENT)])
    finally:
        await database.close()


async def leave_unknown(url: str) -> None:
    """As a process leaves it that died with a call of a cent under way; and freeze an account."""
    database = Database(url)
    try:
        bank = Bank(database, SystemClock())
        lease = await bank.lease("dead", ("all",), {}, least=CENT, wanted=CENT)
        assert isinstance(lease, Lease)
        gone = Entry("led_9", MORNING, "req_9", "default", "flagship", "answer", "gpt")
        await bank.recover("dead", Left(open={lease.id: [(gone, CENT)]}), whole=True)
        over = Entry(
            "led_8", MORNING, "req_8", "default", "flagship", "answer", "gpt", nano_usd=2 * CENT
        )
        lease = await bank.lease("alive", ("all",), {}, least=CENT, wanted=CENT)
        assert isinstance(lease, Lease)
        await bank.settle(lease.id, [(over, CENT)])
    finally:
        await database.close()


def test_what_is_unknown_is_cleared_by_hand(spent: Callable[..., str], tmp_path: Path) -> None:
    asyncio.run(leave_unknown(f"sqlite:///{tmp_path}/spent.db"))
    shown = json.loads(spent("--json"))
    assert [one["id"] for one in shown["unknown"]] == ["led_9"]
    held = {one["account"]: one["held_usd"] for one in shown["accounts"]}
    assert held["all"] == "0.01"
    assert "fusion usage resolve led_9 --cost USD" in spent().replace("\n", " ")
    assert "no amount" in spent("resolve", "led_9", "--cost", "a cent", status=2)
    for cost in ("-1", "nan", "inf"):
        assert "no amount" in spent("resolve", "led_9", "--cost", cost, status=2)
    assert "Booked led_9 at 0.004 USD" in spent("resolve", "led_9", "--cost", "0.004")
    cleared = json.loads(spent("--json"))
    assert cleared["unknown"] == []
    before, after = (shown["total"]["cost_usd"], cleared["total"]["cost_usd"])
    assert Decimal(after) - Decimal(before) == Decimal("0.004")
    assert {one["account"]: one["held_usd"] for one in cleared["accounts"]}["all"] == "0"
    assert "No call or lease called led_9" in spent("resolve", "led_9", "--cost", "1", status=1)


def test_a_frozen_account_spends_again_once_a_person_says_so(
    spent: Callable[..., str], tmp_path: Path
) -> None:
    asyncio.run(leave_unknown(f"sqlite:///{tmp_path}/spent.db"))
    assert "frozen" in spent()
    assert "Account all may spend again" in spent("unfreeze", "all")
    assert not any(one["frozen"] for one in json.loads(spent("--json"))["accounts"])
    assert "No account called all is frozen" in spent("unfreeze", "all", status=1)
