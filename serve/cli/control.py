"""`fusion approvals`, `fusion audit`, `fusion policy`: what people decide, what rules said."""

from __future__ import annotations

import time
from math import isfinite
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.markup import escape
from rich.table import Table

from models.call import Call
from serve.cli.common import (
    CatalogFile,
    Json,
    Port,
    Url,
    fail,
    out,
    plainly,
    print_json,
    read_catalog,
)
from serve.cli.reach import (
    ask,
    save,
    server_url,
)

approvals = typer.Typer(name="approvals", help="What persons are asked.", no_args_is_help=True)
audit = typer.Typer(name="audit", help="What the rules said.", no_args_is_help=True)
policy = typer.Typer(name="policy", help="The rules themselves.", no_args_is_help=True)


def register(parent: typer.Typer) -> None:
    for group in (approvals, audit, policy):
        parent.add_typer(group)


@approvals.command("list")
def show(
    state: Annotated[
        str | None, typer.Option(help="pending, approved, rejected or expired.")
    ] = None,
    url: Url = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """List the newest approvals."""
    query = f"?{urlencode({'state': state})}" if state else ""
    found = ask(server_url(url, port), "GET", f"/v1/approvals{query}")["data"]
    if as_json:
        print_json(found)
        return
    for one in found:
        by = f" by {one['decided_by']} from {one['decided_from']}" if one["decided_by"] else ""
        out.print(f"[bold]{one['id']}[/]  {one['state']}{escape(by)}  {escape(one['model'])}")
        out.print(f"  {escape(one['sentence'])}")


@approvals.command()
def approve(
    identity: Annotated[str, typer.Argument(metavar="ID")],
    once: Annotated[bool, typer.Option("--once", help="Only this one request.")] = False,
    ceiling: Annotated[
        float | None, typer.Option(help="The new ceiling. Default: what is proposed.")
    ] = None,
    url: Url = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Let the request go on."""
    if ceiling is not None and not isfinite(ceiling):
        fail("--ceiling is a number above 0.", 2)
    body = {"decision": "approve", "once": once, "ceiling": ceiling}
    _decide(identity, body, url, port, as_json)


@approvals.command()
def reject(
    identity: Annotated[str, typer.Argument(metavar="ID")],
    reason: Annotated[str, typer.Option(help="Why; the caller reads it.")] = "",
    url: Url = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Let it end."""
    _decide(identity, {"decision": "reject", "reason": reason}, url, port, as_json)


def _decide(
    identity: str, body: dict[str, Any], url: str | None, port: int | None, as_json: bool
) -> None:
    decided = ask(server_url(url, port), "POST", f"/v1/approvals/{identity}", body)
    if as_json:
        print_json(decided)
    else:
        out.print(f"{decided['id']}: {decided['state']}")


@audit.command()
def export(
    after: Annotated[int, typer.Option(help="Only what came after this row.")] = 0,
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    url: Url = None,
    port: Port = None,
) -> None:
    """Print every verdict as a line of JSON, oldest first."""
    query = {"after": after} | ({"project": project} if project else {})
    save(server_url(url, port), f"/v1/audit?{urlencode(query)}")


@policy.command()
def explain(
    file: Annotated[Path, typer.Argument(metavar="REQUEST.json", help="A chat request.")],
    session: Annotated[str | None, typer.Option(help="Within this session.")] = None,
    key: Annotated[str | None, typer.Option(help="By this key's id.")] = None,
    project: Annotated[str, typer.Option(help="Of this project.")] = "default",
    catalog: CatalogFile = None,
    as_json: Json = False,
) -> None:
    """Say which rule would say what, with counters that nothing has counted in yet. Asks no model
    and changes nothing."""
    from serve.control import explaining

    known = read_catalog(catalog)
    with plainly():
        request = explaining.read(file)
        call = Call(session=session, key=key, project=project)
        rulings = explaining.rulings(known, request, call, time.time())
    said = [
        {
            "phase": ruling.event.phase,
            "model": ruling.event.model or request.model,
            "policy": one.policy,
            "decision": one.verdict.decision,
            "reason": one.verdict.reason,
        }
        for ruling in rulings
        for one in ruling.said
    ]
    decisions = [ruling.decision for ruling in rulings]
    decision = "deny" if "deny" in decisions else "ask" if "ask" in decisions else "allow"
    if as_json:
        print_json({"decision": decision, "said": said})
        return
    if said:
        table = Table("phase", "model", "policy", "says", "why", box=None, pad_edge=False)
        for row in said:
            table.add_row(*(escape(cell) for cell in row.values()))
        out.print(table)
    else:
        out.print("no rule of the catalog concerns this request")
    out.print(f"together: {decision}")
