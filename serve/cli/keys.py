"""`fusion keys`: who may use the server. Works on the store itself, also while nothing runs."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table

from models.answerer import SystemClock
from models.errors import FusionError
from serve.access import keys, secret
from serve.cli.common import CatalogFile, Json, Port, fail, out, print_json, read_catalog, store_url
from serve.settings import Settings

if TYPE_CHECKING:
    from serve.access.book import KeyBook

app = typer.Typer(name="keys", help="API keys: who may use the server.", no_args_is_help=True)

Made = TypeVar("Made")
_UNITS = {"m": 60, "h": 3600, "d": 86_400}


def register(parent: typer.Typer) -> None:
    parent.add_typer(app)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What it is for, in your words.")] = "",
    project: Annotated[str, typer.Option(help="Whose objects and budget it uses.")] = "default",
    scope: Annotated[
        list[str], typer.Option(help="use, approve or admin; may be given several times.")
    ] = ["use"],  # noqa: B006  # typer reads it and never changes it
    model: Annotated[
        list[str] | None, typer.Option(help="A name that it may use; default: every name.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="How long it is good, as 90d, 12h or 30m; default: for ever.")
    ] = None,
    catalog: CatalogFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, once."""

    async def make(book: KeyBook) -> tuple[keys.Key, str]:
        return await book.create(
            project=project,
            name=name,
            scopes=keys.scopes(scope),
            models=tuple(model) if model else None,
            expires_at=None if expires is None else time.time() + _seconds(expires),
        )

    _show_once(*_with_book(catalog, port, make), as_json)


@app.command("list")
def show(catalog: CatalogFile = None, port: Port = None, as_json: Json = False) -> None:
    """List all keys that there ever were. Their secrets are kept nowhere."""
    now = time.time()
    found = [key.shown(now) for key in _with_book(catalog, port, lambda book: book.list())]
    if as_json:
        print_json(found)
        return
    table = Table("id", "name", "project", "scopes", "models", "state", box=None, pad_edge=False)
    for key in found:
        models = "every" if key["models"] is None else ", ".join(key["models"])
        table.add_row(
            key["id"], key["name"], key["project"], ", ".join(key["scopes"]), models, key["state"]
        )
    out.print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Its public id.")],
    catalog: CatalogFile = None,
    port: Port = None,
) -> None:
    """End a key now; streams that it opened end within two seconds."""
    _with_book(catalog, port, lambda book: book.revoke(key_id))
    out.print(f"Revoked {key_id}.")


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="Its public id.")],
    grace: Annotated[str, typer.Option(help="How long the old one goes on, as 1d.")] = "0m",
    catalog: CatalogFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Make a key in another's place, with the same rights."""
    made = _with_book(catalog, port, lambda book: book.rotate(key_id, _seconds(grace)))
    _show_once(*made, as_json)


def _show_once(key: keys.Key, text: str, as_json: bool) -> None:
    if as_json:
        print_json({**key.shown(time.time()), "key": text})
        return
    out.print(text, markup=False)
    out.print("[dim]It is shown once and kept nowhere. Use it as FUSION_API_KEY, or api_key.[/]")


def _seconds(text: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if not found:
        fail(f"'{text}' is no length of time; write it as 90d, 12h or 30m.", 2)
    return int(found[1]) * _UNITS[found[2]]


def _with_book(
    catalog: CatalogFile, port: int | None, work: Callable[[KeyBook], Awaitable[Made]]
) -> Made:
    from serve.access.book import KeyBook
    from serve.store import migrate
    from serve.store.database import Database

    known = read_catalog(catalog)
    settings = Settings(
        catalog=known, store=store_url(known, port or known.server.port), host=known.server.host
    )

    async def run() -> Made:
        database = Database(settings.store)
        try:
            await migrate.upgrade(database)
            book = KeyBook(database, secret.read(settings.folder), SystemClock())
            return await work(book)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except (FusionError, secret.NoSecret, ValueError) as error:
        fail(str(error))
