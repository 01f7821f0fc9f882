"""`fusion usage`: what was spent, and what a person must clear by hand. Works on the store
itself, also while nothing runs; with --url it asks a server elsewhere."""

from __future__ import annotations

import asyncio
import csv
import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlencode

import typer
from rich.markup import escape
from rich.table import Table

from models.answerer import SystemClock
from models.errors import FusionError
from models.prices import nano_of
from serve.cli import common
from serve.cli.common import CatalogFile, Json, Port, Url, fail, out, print_json
from serve.cli.reach import ask, server_url

if TYPE_CHECKING:
    from serve.money.bank import Bank
    from serve.money.limits import CatalogLimits
    from serve.store.database import Database

#: What `--only` takes (`serve.money.usage.FILTERS`).
_FILTERS = "project, key, session, job, tier, role, model or request"
app = typer.Typer(name="usage", help="What was spent, by whom and for what.")

Made = TypeVar("Made")
_MOST_USD = Decimal(1_000_000_000)


class _Store:
    """The store of an installation, with the limits that its catalog in force sets."""

    def __init__(self, database: Database, limits: CatalogLimits) -> None:
        self.database = database
        self.limits = limits


@app.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="project, key, session, job, tier, part (brain or work), role, model, request, "
            "day, month; several times or with commas. Default: tier."
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="From this day, month or moment on, as 2026-11-25 (UTC).")
    ] = None,
    until: Annotated[str | None, typer.Option(help="To the end of this day or month.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Only what has this, as project=default: {_FILTERS}.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print rows as CSV.")] = False,
    as_json: Json = False,
    url: Url = None,
    catalog: CatalogFile = None,
    port: Port = None,
) -> None:
    """What was spent: tokens and US dollars by any of these, over time, with shares by tier."""
    if context.invoked_subcommand is not None:
        return
    asked = [("by", word) for word in by or ()]
    asked += [(name, value) for name, value in (("since", since), ("until", until)) if value]
    for one in only or ():
        name, found, value = one.partition("=")
        if not found or name in ("by", "since", "until"):
            fail(f"'{one}' is no filter; write it as project=default.", 2)
        asked.append((name, value))
    if url:
        answer = ask(server_url(url, None), "GET", f"/v1/usage?{urlencode(asked)}")
    else:
        answer = _with_store(catalog, port, lambda store: _answer(store, asked))
    if as_json:
        print_json(answer)
    elif as_csv:
        _print_csv(answer)
    else:
        _print_table(answer)


@app.command()
def resolve(
    context: typer.Context,
    unknown: Annotated[str, typer.Argument(help="Its id, as `fusion usage` shows it.")],
    cost: Annotated[str, typer.Option(help="What it did cost, in US dollars; 0 if nothing.")],
    catalog: CatalogFile = None,
    port: Port = None,
) -> None:
    """Book a call whose end nobody knows at what it did cost, and let go of what it holds."""
    _here(context)
    catalog, port = common.given(context, "catalog"), common.given(context, "port")
    try:
        dollars = Decimal(cost)
    except InvalidOperation:
        dollars = Decimal(-1)
    if not dollars.is_finite() or not 0 <= dollars <= _MOST_USD:
        fail(f"'{cost}' is no amount of US dollars; write the number alone, as 0.0125.", 2)
    if not _with_store(
        catalog, port, lambda store: _bank(store).resolve(unknown, nano_of(dollars))
    ):
        fail(f"No call or lease called {unknown} waits to be resolved.")
    out.print(f"Booked {unknown} at {cost} USD.", markup=False)


@app.command()
def unfreeze(
    context: typer.Context,
    account: Annotated[str, typer.Argument(help="Its name, as `fusion usage` shows it.")],
    catalog: CatalogFile = None,
    port: Port = None,
) -> None:
    """Let an account spend again that was frozen after a bill above its reservation."""
    _here(context)
    catalog, port = common.given(context, "catalog"), common.given(context, "port")
    if not _with_store(catalog, port, lambda store: _bank(store).unfreeze(account)):
        fail(f"No account called {account} is frozen.")
    out.print(f"Account {account} may spend again.", markup=False)


def _here(context: typer.Context) -> None:
    """These work on the store itself: another server's is not to be changed by chance."""
    if context.parent is not None and context.parent.params.get("url"):
        fail("This works on the store of this machine only: run it there, without --url.", 2)


def _bank(store: _Store) -> Bank:
    from serve.money.bank import Bank

    return Bank(store.database, SystemClock())


async def _answer(store: _Store, asked: list[tuple[str, str]]) -> dict[str, Any]:
    from serve.money import usage

    return await usage.answer(store.database, usage.question(asked), store.limits(), None)


def _with_store(
    path: CatalogFile, port: int | None, work: Callable[[_Store], Awaitable[Made]]
) -> Made:
    from serve.editions.history import History
    from serve.money.limits import CatalogLimits
    from serve.store import migrate
    from serve.store.database import Database

    file = common.read_catalog(path)

    async def run() -> Made:
        database = Database(common.store_url(file, port or file.server.port))
        try:
            await migrate.upgrade(database)
            newest = await History(database, SystemClock()).newest()
            ruling = newest.catalog if newest else file
            return await work(_Store(database, CatalogLimits(lambda: ruling)))
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except (FusionError, ValueError) as error:
        fail(str(error))


def _print_csv(answer: dict[str, Any]) -> None:
    names = [*answer["by"], *answer["total"]]
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(answer["data"])


def _print_table(answer: dict[str, Any]) -> None:
    by = answer["by"]
    table = Table(*by, "calls", "input", "output", "USD", "", box=None, pad_edge=False)
    for column in table.columns[len(by) :]:
        column.justify = "right"
    rows = [*answer["data"], dict.fromkeys(by, "") | {by[0]: "total"} | answer["total"]]
    for row in rows:
        notes = [
            f"{row[count]} {word}"
            for count, word in (("estimated_calls", "estimated"), ("unpriced_calls", "unpriced"))
            if row[count]
        ]
        table.add_row(
            *("-" if row[name] is None else escape(row[name]) for name in by),
            *(str(row[name]) for name in ("calls", "input_tokens", "output_tokens", "cost_usd")),
            ", ".join(notes),
        )
    out.print(table)
    for kind, parts in answer["shares"].items():
        if parts:
            said = ", ".join(f"{name} {part:.1%}" for name, part in parts.items())
            out.print(f"\n[dim]by {kind}:[/] {escape(said)}")
    _print_accounts(answer)


def _print_accounts(answer: dict[str, Any]) -> None:
    if answer["accounts"]:
        table = Table("account", "spent", "held", "limits", box=None, pad_edge=False)
        for one in answer["accounts"]:
            limits = ", ".join(
                f"{one[key]} {words}"
                for key, words in (
                    ("limit_total_usd", "in total"),
                    ("limit_day_usd", "a day"),
                    ("limit_month_usd", "a month"),
                )
                if key in one
            )
            if "hours_usd" in one:
                limits = f"of {one['hours_usd']} for replica-hours"
            table.add_row(escape(one["account"]), one["settled_usd"], one["held_usd"], limits)
            if one["frozen"]:
                table.add_row("", f"[red]frozen:[/] {escape(one['frozen'])}")
        out.print()
        out.print(table)
    for one in answer["unknown"]:
        out.print(
            f"\n[yellow]unknown:[/] {escape(one['id'])} holds {one['held_usd']} USD: "
            f"{escape(one['why'])}. "
            f"Clear it: fusion usage resolve {escape(one['id'])} --cost USD"
        )
