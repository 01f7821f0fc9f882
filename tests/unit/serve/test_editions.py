"""Catalogs that change while they are in force."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import stores
from starlette.requests import HTTPConnection

from models.catalog import Catalog
from models.errors import Conflict
from models.fake import FakeClock, FakeModel
from serve.access.caller import Caller
from serve.editions.changes import changes
from serve.editions.edition import Edition, Editions
from serve.editions.history import History
from serve.gateway.rooms.catalog import CatalogRoom
from serve.gateway.site import site
from serve.store.database import Database
from serve.store.schema import editions

RAW: dict[str, Any] = {
    "models": {"small": {"engine": "fake"}, "large": {"engine": "fake"}},
    "aliases": {"brain": "small"},
    "panels": {"pair": {"members": ["small", "large"]}},
    "roles": {"judge": "brain"},
}
CATALOG = Catalog.model_validate(RAW)


def changed(**keys: Any) -> Catalog:
    return Catalog.model_validate({**RAW, **keys})


def test_a_change_is_told_by_its_path() -> None:
    after = changed(
        aliases={"brain": "large", "new": "small"},
        server={"port": 9000},
        fleet={"usd_per_hour": 3},
    )
    assert [str(change) for change in changes(CATALOG, after)] == [
        "server.port: 8000 → 9000  (with the next start)",
        "aliases.brain: small → large",
        "aliases.new: nothing → small",
        "fleet.usd_per_hour: nothing → 3.0  (with the next start)",
    ]


def test_a_model_that_comes_or_goes_is_one_change() -> None:
    after = changed(models={**RAW["models"], "third": {"engine": "fake", "context": 2048}})
    assert [str(change) for change in changes(CATALOG, after)] == [
        "models.third: nothing → a model (fake, context 2048)"
    ]


def test_nothing_differs_from_itself() -> None:
    assert changes(CATALOG, changed()) == []


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with stores.empty(f"sqlite:///{tmp_path}/x.db") as made:
        yield made


@pytest.fixture
def history(database: Database) -> History:
    return History(database, FakeClock(1000.0))


async def test_a_changed_file_rules_until_the_store_was_changed_by_hand(history: History) -> None:
    assert (await history.ruling(CATALOG)).version == 1
    assert (await history.ruling(CATALOG)).version == 1, "the same file is no new version"
    other = changed(aliases={"brain": "large"})
    assert (await history.ruling(other)).version == 2
    await history.publish(CATALOG, "apply", after=2, by="me")
    found = await history.ruling(other)
    assert (found.version, found.origin, found.catalog) == (3, "apply", CATALOG)
    assert (await history.ruling(other, take_file=True)).catalog == other


async def test_two_changes_of_one_version_are_not_both_made(history: History) -> None:
    await history.ruling(CATALOG)
    await history.publish(changed(aliases={}), "alias", after=1)
    with pytest.raises(Conflict):
        await history.publish(CATALOG, "alias", after=1)
    assert [version.version for version in await history.list()] == [2, 1]


class Hall:
    """Two processes that follow one history, and the catalog's routes in front of the first."""

    def __init__(self, history: History) -> None:
        self.history = history
        #: The catalogs that the first one said are in force.
        self.followed: list[Catalog] = []
        self.first = Editions(history, self.make, self.followed.append)
        self.second = Editions(history, self.make, lambda _: None)
        self.missing: list[str] = []
        room = CatalogRoom(self.first, history, self._not_running)
        transport = httpx.ASGITransport(app=site([room], self._who))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://hall")
        self.who = Caller()

    def make(self, catalog: Catalog, version: int) -> Edition:
        if "keyless" in catalog.aliases:
            raise ValueError("Model 'x' needs its API key in the variable X.")
        model = FakeModel(catalog.model_behind("brain"))
        return Edition(catalog, model, model, version)

    async def _not_running(self, catalog: Catalog) -> list[str]:
        return self.missing

    async def _who(self, _: HTTPConnection) -> Caller:
        return self.who

    async def put(self, catalog: Catalog, after: int) -> httpx.Response:
        body = {"catalog": catalog.model_dump_json(), "after": after}
        return await self.client.put("/v1/catalog", json=body)


@pytest.fixture
async def hall(history: History) -> AsyncIterator[Hall]:
    made = Hall(history)
    await made.first.start(CATALOG)
    await made.second.start(CATALOG)
    yield made
    await made.first.aclose()
    await made.second.aclose()


async def test_an_alias_is_swapped_for_every_process_and_what_began_ends_on_the_old(
    hall: Hall,
) -> None:
    under_way = hall.second.current
    answer = (await hall.client.put("/v1/aliases/brain", json={"target": "large"})).json()
    assert answer == {"version": 2, "changes": ["aliases.brain: small → large"]}
    assert hall.first.current.catalog.model_behind("brain") == "large"
    await hall.second.refresh()
    assert hall.second.current.version == 2
    assert under_way.catalog.model_behind("brain") == "small"


async def test_the_same_again_makes_no_version(hall: Hall) -> None:
    answer = (await hall.client.put("/v1/aliases/brain", json={"target": "small"})).json()
    assert answer == {"version": 1, "changes": []}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("PUT", "/v1/aliases/brain", {"target": "nobody"}, 400, "nothing is called 'nobody'"),
        ("PUT", "/v1/aliases/brain", {}, 400, "target"),
        ("PUT", "/v1/aliases/small", {"target": "large"}, 400, "both a model and an alias"),
        ("DELETE", "/v1/aliases/brain", None, 400, "nothing is called 'brain'"),
        ("DELETE", "/v1/aliases/other", None, 404, "no alias 'other'"),
        ("PUT", "/v1/catalog", {"catalog": "models: [", "after": 1}, 400, "catalog:1"),
        ("PUT", "/v1/catalog", {"catalog": "{}", "after": 7}, 409, "at version 1, not 7"),
        (
            "PUT",
            "/v1/catalog",
            {"catalog": "{}", "after": 1, "note": "a\0b"},
            400,
            "note",
        ),
        ("GET", "/v1/catalog?version=9", None, 404, "no version 9"),
        ("GET", "/v1/catalog?version=x", None, 400, "whole number"),
    ],
)
async def test_a_wrong_change_is_refused_whole(
    hall: Hall, method: str, path: str, body: Any, status: int, words: str
) -> None:
    response = await hall.client.request(method, path, json=body)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]
    assert hall.first.current.version == await hall.history.newest_version() == 1


async def test_a_model_that_does_not_run_cannot_take_over(hall: Hall) -> None:
    hall.missing = ["third"]
    response = await hall.put(changed(aliases={"brain": "large"}), 1)
    assert response.status_code == 409
    assert "third" in response.json()["error"]["message"]


async def test_a_key_that_is_missing_here_is_said_before_anything_changes(hall: Hall) -> None:
    response = await hall.put(changed(aliases={"brain": "small", "keyless": "small"}), 1)
    assert response.status_code == 400
    assert "variable X" in response.json()["error"]["message"]


async def test_a_version_that_cannot_be_built_leaves_the_old_one_in_force(hall: Hall) -> None:
    bad = changed(aliases={"brain": "small", "keyless": "small"})
    await hall.history.publish(bad, "apply", after=1)
    await hall.first.refresh()
    assert hall.first.current.version == 1
    assert "variable X" in str(hall.first.problem)
    await hall.history.publish(CATALOG, "rollback", after=2)
    await hall.first.refresh()
    assert (hall.first.current.version, hall.first.problem) == (3, None)


async def test_only_a_catalog_that_is_taken_is_followed(hall: Hall) -> None:
    hall.missing = ["third"]
    other = changed(aliases={"brain": "large"})
    assert (await hall.put(other, 1)).status_code == 409
    keyless = changed(aliases={"brain": "small", "keyless": "small"})
    assert (await hall.put(keyless, 1)).status_code == 400
    assert all(catalog == CATALOG for catalog in hall.followed)
    hall.missing = []
    assert (await hall.put(other, 1)).status_code == 200
    assert hall.followed[-1] == other


async def test_the_catalog_is_for_administrators(hall: Hall) -> None:
    hall.who = Caller(scopes=frozenset(("use",)))
    assert (await hall.client.get("/v1/catalog")).status_code == 403
    assert (await hall.client.put("/v1/aliases/brain", json={"target": "large"})).status_code == 403


async def test_history_tells_what_changed(hall: Hall) -> None:
    hall.who = Caller(key="k1")
    await hall.client.put("/v1/aliases/brain", json={"target": "large"})
    newest, first = (await hall.client.get("/v1/catalog/history")).json()["data"]
    assert (newest["by"], newest["origin"]) == ("k1", "alias")
    assert newest["changes"] == ["aliases.brain: small → large"]
    assert (first["version"], first["changes"]) == (1, [])


async def test_a_version_of_another_program_hides_no_other(hall: Hall, database: Database) -> None:
    await hall.client.put("/v1/aliases/brain", json={"target": "large"})
    async with database.write() as connection:
        odd = sa.update(editions).where(editions.c.version == 1).values(catalog={"gone": 1})
        await connection.execute(odd)
    newest, first = (await hall.client.get("/v1/catalog/history")).json()["data"]
    assert (newest["version"], newest["changes"]) == (2, [])
    assert (first["version"], first["changes"]) == (1, [])
    assert first["note"] == "does not suit this version of the program"
