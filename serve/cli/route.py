"""`fusion route`: what the router would choose for a prompt, and why, without spending."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from serve.cli.common import (
    Json,
    Port,
    Url,
    out,
    print_json,
)
from serve.cli.reach import (
    ask,
    server_url,
)
from serve.cli.telling import choice


def register(parent: typer.Typer) -> None:
    parent.command()(route)


def route(
    prompt: Annotated[
        str,
        typer.Argument(help="What would be asked; '-' reads standard input.", show_default=False),
    ],
    quality: Annotated[
        float | None, typer.Option(help="0 as cheap as can be to 1 as good as can be.")
    ] = None,
    max_usd: Annotated[float | None, typer.Option(help="Dollars that it may cost.")] = None,
    flagship_share: Annotated[
        float | None, typer.Option(help="Part of all tokens that flagships should write.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="The kind of subtask that it is.")] = None,
    url: Url = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Explain what fusion/auto would do with PROMPT. Nothing is spent and nothing is learned."""
    said = {"quality": quality, "max_usd": max_usd, "flagship_share": flagship_share, "kind": kind}
    text = sys.stdin.read() if prompt == "-" else prompt
    body = {"prompt": text} | {name: value for name, value in said.items() if value is not None}
    told = ask(server_url(url, port), "POST", "/v1/route", body)
    if as_json:
        print_json(told)
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    out.print(f"[bold]{escape(choice(told))}[/]: {escape(told['why'])}")
    candidates = Table("candidate", "quality", "90% interval", "$", "known", box=None)
    for one in told["candidates"]:
        known = "from training" if one["known"] else "guessed"
        candidates.add_row(escape(one["model"]), *_cells(one), known)
    out.print(candidates)
    options = Table("option", "quality", "90% interval", "$", "$ at most", box=None)
    for one in told["options"]:
        options.add_row(escape(choice(one)), *_cells(one), _dollars(one["most_usd"]))
    out.print(options)


def _cells(one: dict[str, Any]) -> tuple[str, str, str]:
    low, high = one["interval"]
    return f"{one['quality']:.2f}", f"{low:.2f} to {high:.2f}", _dollars(one["cost_usd"])


def _dollars(amount: float | None) -> str:
    return "unknown" if amount is None else f"{amount:.6f}"
