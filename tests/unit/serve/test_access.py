"""Keys, and who gets through the door with which."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import stores
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Conflict, Forbidden, Unauthorized
from models.fake import FakeClock
from serve.access import keys, secret
from serve.access.book import KeyBook
from serve.access.caller import Caller
from serve.access.guard import KEPT_S, Guard
from serve.gateway.rooms.keys import KeysRoom
from serve.gateway.site import site
from serve.store.database import Database

PEPPER = b"p" * 32


class Gate:
    """A guard, its keys, and their routes."""

    def __init__(self, database: Database, *, local: bool = True) -> None:
        self.clock = FakeClock(1_000_000.0)
        self.book = KeyBook(database, PEPPER, self.clock)
        self.guard = Guard(self.book, PEPPER, local, self.clock)
        app = site([KeysRoom(self.book, self.clock)], self.guard)
        transport = httpx.ASGITransport(app=app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://gate")

    async def status(self, key: str | None, path: str = "/v1/keys") -> int:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return (await self.client.get(path, headers=headers)).status_code


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with stores.empty(f"sqlite:///{tmp_path}/x.db") as made:
        yield made


@pytest.fixture
def gate(database: Database) -> Gate:
    return Gate(database)


def test_a_key_carries_its_public_id_and_256_random_bits() -> None:
    (first, text), (second, other) = keys.new(), keys.new()
    assert keys.public_id(text) == first != second
    assert len(text.split("_", 2)[2]) == 43
    assert text != other


@given(st.text(max_size=80))
def test_whatever_is_sent_is_no_key(text: str) -> None:
    assert keys.public_id(text) is None
    assert not keys.is_operators(PEPPER, text)


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "key"),
    [
        ("Bearer abc", None, "abc"),
        ("bearer  abc ", None, "abc"),
        (None, "abc", "abc"),
        ("Bearer other", "abc", "abc"),
        ("Basic abc", None, None),
        ("Bearer ", None, None),
        (None, None, None),
    ],
)
def test_both_ways_to_send_a_key(
    authorization: str | None, x_api_key: str | None, key: str | None
) -> None:
    assert keys.bearer(authorization, x_api_key) == key


async def test_without_keys_this_machine_may_do_everything(gate: Gate) -> None:
    assert await gate.guard.admit(None) == Caller()
    assert await gate.guard.admit("sk-whatever") == Caller()


async def test_a_server_that_strangers_reach_is_never_open(database: Database) -> None:
    with pytest.raises(Unauthorized, match="fusion keys create"):
        await Gate(database, local=False).guard.admit(None)


async def test_the_first_key_closes_the_door_and_revoking_it_does_not_open_it(gate: Gate) -> None:
    key, text = await gate.book.create(scopes=frozenset(("admin",)))
    await gate.clock.advance(KEPT_S)
    assert await gate.status(None) == 401
    assert await gate.status(text) == 200
    await gate.book.revoke(key.id)
    await gate.clock.advance(KEPT_S)
    assert await gate.status(text) == 401
    assert await gate.status(None) == 401


async def test_whoever_has_the_installations_files_has_a_key(gate: Gate) -> None:
    await gate.book.create()
    assert await gate.status(keys.operator_key(PEPPER)) == 200
    assert await gate.status(keys.operator_key(b"other" * 8)) == 401


async def test_a_key_that_is_good_but_for_its_secret(gate: Gate) -> None:
    key, text = await gate.book.create()
    forged = f"fk_{key.id}_{'A' * 43}"
    for wrong in (forged, text[:-1], text + "x", text.replace(key.id, "0" * 12)):
        with pytest.raises(Unauthorized, match="not known"):
            await gate.guard.admit(wrong)


async def test_a_key_says_whose_and_what(gate: Gate) -> None:
    key, text = await gate.book.create(project="blue", models=("small",))
    who = await gate.guard.admit(text)
    assert who == Caller("blue", key.id, frozenset(("use",)), ("small",))
    who.may_ask(["small"])
    with pytest.raises(Forbidden, match="may not use 'large'"):
        who.may_ask(["small", "large"])
    with pytest.raises(Forbidden, match="admin"):
        who.require("admin")
    assert await gate.status(text) == 403


async def test_a_key_ends_at_its_time(gate: Gate) -> None:
    _, text = await gate.book.create(expires_at=gate.clock.now() + 60)
    await gate.guard.admit(text)
    await gate.clock.advance(60)
    with pytest.raises(Unauthorized, match="expired"):
        await gate.guard.admit(text)


async def test_a_rotated_key_goes_on_for_its_grace(gate: Gate) -> None:
    key, old = await gate.book.create(name="ci", models=("small",))
    made, new = await gate.book.rotate(key.id, grace_s=3600)
    assert (made.name, made.models) == ("ci", ("small",))
    await gate.guard.admit(new)
    await gate.guard.admit(old)
    await gate.clock.advance(3600)
    with pytest.raises(Unauthorized, match="revoked"):
        await gate.guard.admit(old)
    await gate.guard.admit(new)


async def test_a_key_is_rotated_once(gate: Gate) -> None:
    key, old = await gate.book.create()
    await gate.book.rotate(key.id, grace_s=60)
    with pytest.raises(Conflict):
        await gate.book.rotate(key.id, grace_s=3600)
    assert len(await gate.book.list()) == 2
    await gate.clock.advance(60)
    with pytest.raises(Unauthorized, match="revoked"):
        await gate.guard.admit(old)


async def test_a_key_that_is_revoked_while_it_is_rotated_stays_revoked(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = await gate.book.create()
    get = gate.book.get

    async def revoked_meanwhile(key_id: str) -> keys.Key:
        found = await get(key_id)
        await gate.book.revoke(key_id)
        return found

    monkeypatch.setattr(gate.book, "get", revoked_meanwhile)
    with pytest.raises(Conflict):
        await gate.book.rotate(key.id, grace_s=3600)
    [left] = await gate.book.list()
    assert left.state(gate.clock.now()) == "revoked"


async def test_a_stream_learns_that_its_key_is_gone(gate: Gate) -> None:
    key, text = await gate.book.create()
    who = await gate.guard.admit(text)
    assert await gate.guard.still(who)
    await gate.book.revoke(key.id)
    await gate.clock.advance(KEPT_S)
    assert not await gate.guard.still(who)


async def test_a_secret_is_shown_once_and_kept_nowhere(gate: Gate, tmp_path: Path) -> None:
    made: dict[str, Any] = (await gate.client.post("/v1/keys", json={"name": "mine"})).json()
    headers = {"authorization": f"Bearer {keys.operator_key(PEPPER)}"}
    listed = (await gate.client.get("/v1/keys", headers=headers)).json()["data"]
    secret_part = made["key"].split("_", 2)[2]
    assert [key["id"] for key in listed] == [made["id"]]
    assert secret_part not in str(listed)
    files = await asyncio.to_thread(lambda: [file.read_bytes() for file in tmp_path.iterdir()])
    assert secret_part.encode() not in b"".join(files)
    assert made["key"] not in repr(await gate.book.list())


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"expires_in_s": -1}, "expires_in_s"),
        ({"expires_in_s": 1e300}, "expires_in_s"),
        ({"colour": "red"}, "colour"),
        ({"project": 7}, "project"),
        ({"project": ""}, "project"),
        ({"project": "a\0b"}, "project"),
        ({"project": "x" * 201}, "project"),
        ({"name": "a\0b"}, "name"),
        ({"name": "x" * 201}, "name"),
    ],
)
async def test_a_key_that_cannot_be(gate: Gate, body: dict[str, Any], field: str) -> None:
    response = await gate.client.post("/v1/keys", json=body)
    assert response.status_code == 400
    assert field in response.json()["error"]["message"].lower()


async def test_a_key_whose_id_no_store_can_hold(gate: Gate) -> None:
    assert (await gate.client.delete("/v1/keys/%00")).status_code == 400
    assert (await gate.client.post("/v1/keys/%00/rotate", json={})).status_code == 400


@pytest.mark.parametrize("grace", ["1e300", "NaN", "Infinity"])
async def test_a_rotation_that_cannot_be_makes_no_key(gate: Gate, grace: str) -> None:
    made: dict[str, Any] = (await gate.client.post("/v1/keys", json={"scopes": ["admin"]})).json()
    headers = {"authorization": f"Bearer {made['key']}", "content-type": "application/json"}
    response = await gate.client.post(
        f"/v1/keys/{made['id']}/rotate", content=f'{{"grace_s": {grace}}}', headers=headers
    )
    assert response.status_code == 400
    assert len(await gate.book.list()) == 1


async def test_a_store_that_fails_lets_nobody_in(gate: Gate, database: Database) -> None:
    _, text = await gate.book.create()
    async with database.write() as connection:
        await connection.execute(sa.text("drop table keys"))
    await gate.clock.advance(KEPT_S)
    assert await gate.status(text) == 503


def test_a_secret_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(secret.VARIABLE, raising=False)
    made = secret.read(tmp_path / "new")
    assert secret.read(tmp_path / "new") == made
    assert len(made) == 64
    assert (tmp_path / "new" / "secret").stat().st_mode & 0o777 == 0o600


def test_a_secret_that_was_cut_off_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(secret.VARIABLE, raising=False)
    (tmp_path / "secret").touch()
    with pytest.raises(secret.NoSecret, match="shorter"):
        secret.read(tmp_path)


def test_machines_that_share_a_store_share_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(secret.VARIABLE, raising=False)
    with pytest.raises(secret.NoSecret, match=secret.VARIABLE):
        secret.read(None)
    monkeypatch.setenv(secret.VARIABLE, "short")
    with pytest.raises(secret.NoSecret, match="shorter"):
        secret.read(None)
    monkeypatch.setenv(secret.VARIABLE, "x" * 40)
    assert secret.read(None) == b"x" * 40


def test_projects_have_caches_of_their_own() -> None:
    assert keys.cache_salt(PEPPER, "blue") == keys.cache_salt(PEPPER, "blue")
    salts = {keys.cache_salt(pepper, name) for pepper in (PEPPER, b"q" * 32) for name in "ab"}
    assert len(salts) == 4


class CountingBook(KeyBook):
    """A book that is slow, and counts how often it is asked."""

    asked = 0

    async def find(self, key_id: str) -> keys.Key | None:
        self.asked += 1
        await asyncio.sleep(0.01)
        return await super().find(key_id)

    async def any(self) -> bool:
        self.asked += 1
        await asyncio.sleep(0.01)
        return await super().any()


async def test_many_who_come_at_once_ask_the_store_once(database: Database) -> None:
    clock = FakeClock(1_000_000.0)
    book = CountingBook(database, PEPPER, clock)
    guard = Guard(book, PEPPER, True, clock)
    assert await asyncio.gather(*(guard.admit(None) for _ in range(20))) == [Caller()] * 20
    assert book.asked == 1
    _, text = await book.create()
    await clock.advance(KEPT_S)
    callers = await asyncio.gather(*(guard.admit(text) for _ in range(20)))
    assert {caller.project for caller in callers} == {"default"}
    assert book.asked == 3, "one look whether the door is closed, one for the key"


async def test_who_waits_for_another_asks_in_its_place_when_it_goes_away(
    database: Database,
) -> None:
    clock = FakeClock(1_000_000.0)
    book = CountingBook(database, PEPPER, clock)
    guard = Guard(book, PEPPER, True, clock)
    first = asyncio.create_task(guard.admit(None))
    second = asyncio.create_task(guard.admit(None))
    await asyncio.sleep(0.002)
    first.cancel()
    assert await second == Caller()
    assert book.asked == 2
