"""`fusion keys`: who may use the server. Works on the store itself, also while nothing runs; with
--url it asks a server elsewhere."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.table import Table

from models.answerer import SystemClock
from models.errors import FusionError
from serve.access import keys, secret
from serve.cli.common import (
    CatalogFile,
    Json,
    Port,
    Url,
    err,
    fail,
    out,
    print_json,
    read_catalog,
    store_url,
)
from serve.cli.reach import ask, server_url
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
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, once."""
    if not project:
        fail("A key needs a project.", 2)
    good_s = None if expires is None else _seconds(expires)
    if good_s == 0:
        fail("A key that expires at once is of no use.", 2)
    if url:
        body = {"project": project, "name": name, "scopes": scope, "models": model or None}
        asked = body | ({} if good_s is None else {"expires_in_s": good_s})
        _show_once(ask(server_url(url, None), "POST", "/v1/keys", asked), as_json)
        return
    for one in model or ():
        if read_catalog(catalog).resolve(one) is None:
            err.print(f"warning: nothing is called '{one}' in the catalog", markup=False)

    async def make(book: KeyBook) -> tuple[keys.Key, str]:
        return await book.create(
            project=project,
            name=name,
            scopes=keys.scopes(scope),
            models=tuple(model) if model else None,
            expires_at=None if good_s is None else time.time() + good_s,
        )

    key, text = _with_book(catalog, port, make)
    _show_once({**key.shown(time.time()), "key": text}, as_json)


@app.command("list")
def show(
    catalog: CatalogFile = None, port: Port = None, url: Url = None, as_json: Json = False
) -> None:
    """List all keys that there ever were. Their secrets are kept nowhere."""
    if url:
        found = ask(server_url(url, None), "GET", "/v1/keys")["data"]
    else:
        now = time.time()
        found = [key.shown(now) for key in _with_book(catalog, port, lambda book: book.list())]
    if as_json:
        print_json(found)
        return
    table = Table("id", "name", "project", "scopes", "models", "state", box=None, pad_edge=False)
    for key in found:
        models = "every" if key["models"] is None else ", ".join(key["models"])
        cells = key["id"], key["name"], key["project"], ", ".join(key["scopes"]), models
        table.add_row(*map(escape, cells), key["state"])
    out.print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Its public id.")],
    catalog: CatalogFile = None,
    port: Port = None,
    url: Url = None,
) -> None:
    """End a key now; streams that it opened end within two seconds."""
    if url:
        ask(server_url(url, None), "DELETE", f"/v1/keys/{quote(key_id, safe='')}")
    else:
        _with_book(catalog, port, lambda book: book.revoke(key_id))
    out.print(f"Revoked {key_id}.", markup=False)


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="Its public id.")],
    grace: Annotated[str, typer.Option(help="How long the old one goes on, as 1d.")] = "0m",
    catalog: CatalogFile = None,
    port: Port = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a key in another's place, with the same rights."""
    grace_s = _seconds(grace)
    if url:
        path = f"/v1/keys/{quote(key_id, safe='')}/rotate"
        made = ask(server_url(url, None), "POST", path, {"grace_s": grace_s})
    else:
        key, text = _with_book(catalog, port, lambda book: book.rotate(key_id, grace_s))
        made = {**key.shown(time.time()), "key": text}
    _show_once(made, as_json)


def _show_once(made: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    out.print(made["key"], markup=False)
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
