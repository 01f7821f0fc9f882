"""`fusion apply`, `alias`, `history`, `rollback`: change what answers while it answers."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cluster import installation, launch, serving
from models.catalog import Catalog
from serve.applications import NAME, model_applications, under_budget_of
from serve.cli.common import (
    CatalogFile,
    Json,
    Port,
    Url,
    catalog_path,
    fail,
    out,
    print_json,
    read_catalog,
)
from serve.cli.reach import (
    ask,
    server_url,
)
from serve.editions.changes import changes

aliases = typer.Typer(name="alias", help="Names that point to what answers.", no_args_is_help=True)
Drain = Annotated[
    float,
    typer.Option(
        help="Seconds that a replaced model goes on for: a request that began before, a fusion or "
        "a plan, may still call it.",
        # Gateways look for a new version twice a second.
        min=3.0,
        metavar="SECONDS",
    ),
]
DRAIN_S = 60.0


def register(app: typer.Typer) -> None:
    app.command()(apply)
    app.command()(history)
    app.command()(rollback)
    app.add_typer(aliases)


def apply(
    file: Annotated[Path | None, typer.Argument(help="Catalog file.", show_default=False)] = None,
    catalog_file: CatalogFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the difference only.")] = False,
    drain: Drain = DRAIN_S,
    port: Port = None,
    url: Url = None,
) -> None:
    """Put a catalog in force while the server runs. From then on the store rules.

    New workforce models start first and take over when they are ready; requests under way end
    on what they began with. A catalog that is wrong anywhere is refused whole.
    """
    base, file = server_url(url, port), file or catalog_file
    wanted = read_catalog(file)
    newest = ask(base, "GET", "/v1/catalog")
    _move(base, newest, wanted, "apply", str(catalog_path(file)), dry_run, drain)


def rollback(
    version: Annotated[int, typer.Argument(help="A version that 'fusion history' shows.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the difference only.")] = False,
    drain: Drain = DRAIN_S,
    port: Port = None,
    url: Url = None,
) -> None:
    """Put an earlier catalog in force again, as a new version."""
    base = server_url(url, port)
    wanted = Catalog.model_validate(ask(base, "GET", f"/v1/catalog?version={version}")["catalog"])
    newest = ask(base, "GET", "/v1/catalog")
    _move(base, newest, wanted, "rollback", f"to version {version}", dry_run, drain)


def _move(
    base: str,
    newest: dict[str, Any],
    wanted: Catalog,
    origin: str,
    note: str,
    dry_run: bool,
    drain_s: float,
) -> None:
    present = Catalog.model_validate(newest["catalog"])
    made = changes(present, wanted)
    if not made:
        out.print(f"Nothing differs from version {newest['version']}.")
        return
    for change in made:
        out.print(f"  {change}", markup=False)
    if dry_run:
        return
    started = _start_models(base, present, wanted)
    body = {
        "catalog": wanted.model_dump_json(),
        "after": newest["version"],
        "origin": origin,
        "note": note,
    }
    try:
        answer = ask(base, "PUT", "/v1/catalog", body)
    except typer.Exit:
        _stop_models(base, started)
        raise
    out.print(f"Version {answer['version']} is in force.")
    kept = model_applications(wanted)
    gone = [name for name in model_applications(present) if name not in kept]
    if gone:
        out.print(f"The models that are replaced go on for {drain_s:g} s.")
        time.sleep(drain_s)
        _stop_models(base, gone)


def _start_models(base: str, present: Catalog, wanted: Catalog) -> list[str]:
    """Start the workforce models that do not run as they are wanted; returns the applications."""
    running = model_applications(present)
    new = {name: one for name, one in model_applications(wanted).items() if name not in running}
    if not new:
        return []
    made = _local(base)
    if made is None:
        fail("Workforce models can be changed only on the machine that 'fusion up' runs on.")
    out.print("Starting the new models; the old ones answer meanwhile.")
    try:
        there = serving.deployed(made)
        serving.deploy(made, [*there.values(), *under_budget_of(there[NAME], new.values())])
        serving.wait_until_running(made, new, lambda line: out.print(f"  {line}", markup=False))
    except launch.LaunchError as error:
        _stop_models(base, list(new))
        fail(f"{error} Nothing was changed.")
    return list(new)


def _stop_models(base: str, names: list[str]) -> None:
    """End these applications, but for those of the catalog in force: a change whose answer was
    lost, or somebody else's, may have put them there. None where that cannot be known."""
    made = _local(base)
    if made is None or not names:
        return
    with suppress(typer.Exit):
        ruling = Catalog.model_validate(ask(base, "GET", "/v1/catalog")["catalog"])
        gone = set(names) - model_applications(ruling).keys()
        kept = [one for name, one in serving.deployed(made).items() if name not in gone]
        serving.deploy(made, kept)


def _local(base: str) -> installation.Installation | None:
    _, _, port = base.rpartition(":")
    made = installation.find(int(port)) if port.isdecimal() else None
    return made if made is not None and made.url == base else None


@aliases.command("set")
def set_alias(
    assignment: Annotated[str, typer.Argument(help="NAME=TARGET, as brain=gpt-5")],
    port: Port = None,
    url: Url = None,
) -> None:
    """Point a name somewhere else; the next call uses it."""
    name, mark, target = assignment.partition("=")
    if not (name and mark and target):
        fail("Write it as NAME=TARGET, for example brain=gpt-5.", 2)
    _report(ask(server_url(url, port), "PUT", f"/v1/aliases/{name}", {"target": target}))


@aliases.command("remove")
def remove_alias(
    name: Annotated[str, typer.Argument(help="The alias.")], port: Port = None, url: Url = None
) -> None:
    """Take a name away that nothing points to."""
    _report(ask(server_url(url, port), "DELETE", f"/v1/aliases/{name}"))


@aliases.command("list")
def list_aliases(port: Port = None, url: Url = None, as_json: Json = False) -> None:
    """Show where each alias points."""
    known = ask(server_url(url, port), "GET", "/v1/catalog")["catalog"]["aliases"]
    if as_json:
        print_json(known)
        return
    table = Table("alias", "points to", box=None, pad_edge=False)
    for name, target in sorted(known.items()):
        table.add_row(escape(name), escape(target))
    out.print(table)


def _report(answer: dict[str, Any]) -> None:
    for change in answer["changes"]:
        out.print(f"  {change}", markup=False)
    out.print(f"Version {answer['version']} is in force.")


def history(port: Port = None, url: Url = None, as_json: Json = False) -> None:
    """Show every catalog that was in force, the newest first."""
    versions = ask(server_url(url, port), "GET", "/v1/catalog/history")["data"]
    if as_json:
        print_json(versions)
        return
    table = Table("version", "when", "how", "by", "changes", box=None, pad_edge=False)
    for one in versions:
        when = datetime.fromtimestamp(one["at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        told = "\n".join(one["changes"]) or one["note"]
        table.add_row(str(one["version"]), when, one["origin"], one["by"], escape(told))
    out.print(table)
