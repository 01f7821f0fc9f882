"""`fusion show`: what a fusion did, under the id that its answer carries."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from serve.cli.common import (
    Json,
    Port,
    Url,
    out,
    print_json,
)
from serve.cli.reach import ask, server_url
from serve.cli.telling import show_analysis, show_stages


def register(app: typer.Typer) -> None:
    app.command()(show)


def show(
    identity: Annotated[str, typer.Argument(metavar="ID", help="As fus_... in an answer.")],
    port: Port = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show a whole fusion: what was asked, who said what, the analysis, the answer, the cost."""
    told = ask(server_url(url, port), "GET", f"/v1/fusions/{identity}")
    if as_json:
        print_json(told)
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    for message in told["messages"]:
        out.print(f"[bold]{escape(message['role'])}[/]")
        out.print(message["content"], markup=False)
    for one in told.get("responses", ()):
        out.print(f"\n[green]✓ {escape(one['model'])}[/]")
        out.print(one["content"].strip(), style="dim", markup=False)
    for one in told.get("failed_models", ()):
        out.print(f"[red]✗ {escape(one['model'])}[/]  {escape(one['error'])}")
    if "analysis" in told:
        out.print(f"\n[bold]Judge[/] ({escape(told['judge'])})")
        show_analysis(told["analysis"])
    if "error" in told:
        out.print(f"[red]{escape(told['error'])}[/]")
    if "failure_reason" in told:
        what = "failed" if "error" in told else "no analysis"
        out.print(f"[yellow]{what}: {escape(told['failure_reason'])}[/]")
    if "output" in told:
        out.print(f"\n[bold]Answer[/] ({escape(told['model'])})")
        out.print(told["output"], markup=False)
    for source in told.get("sources", ()):
        out.print(f"  {source['title']}  {source['url']}", markup=False, style="dim")
    out.print()
    show_stages(told)
