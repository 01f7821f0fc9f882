"""`fusion ask`: one question, with everything that happens on the way, live."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import typer
from rich.markup import escape

from serve.cli.common import (
    Json,
    Port,
    Url,
    fail,
    out,
    print_json,
)
from serve.cli.reach import client, data_of, events, reaching, server_url
from serve.cli.telling import Panel, show_analysis, show_route, show_stages
from serve.heard import lines

_DEFAULT = "fusion/default"


def register(app: typer.Typer) -> None:
    app.command()(ask)


def ask(
    question: Annotated[str, typer.Argument(help="The question; '-' reads standard input.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model, alias, or fusion/<panel>.")
    ] = _DEFAULT,
    panel: Annotated[
        str | None, typer.Option(help="A panel of the catalog: the same as -m fusion/PANEL.")
    ] = None,
    show_panel: Annotated[
        bool, typer.Option("--show-panel", help="Show what each panelist answered.")
    ] = False,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens.")
    ] = None,
    port: Port = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Ask, and watch: the panelists as they write, the judge's analysis, the answer live."""
    if panel and model != _DEFAULT:
        fail("A panel has models of its own: give --panel or --model.", 2)
    text = sys.stdin.read() if question == "-" else question
    body: dict[str, Any] = {
        "model": f"fusion/{panel}" if panel else model,
        "messages": [{"role": "user", "content": text}],
        "fusion": {"expose_panel": show_panel, "events": True},
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    base = server_url(url, port)
    if as_json:
        _whole(base, body)
    else:
        _live(base, body, show_panel)


def _whole(base: str, body: dict[str, Any]) -> None:
    # The server ends it at the request's own deadline, which may be at most a day away.
    with reaching(base), client(base, 86_400) as server:
        response = server.post("/v1/chat/completions", json=body)
    told = data_of(response)
    print_json(told)
    if response.status_code != 200:
        raise typer.Exit(1)


def _live(base: str, body: dict[str, Any], show_panel: bool) -> None:
    panel = Panel(whole=show_panel)
    try:
        with events(base, "/v1/chat/completions", body | {"stream": True}) as response:
            _read(response, panel)
    finally:
        panel.close()


def _read(response: httpx.Response, panel: Panel) -> None:
    answering = ended = False
    for chunk in _chunks(response):
        if "error" in chunk:
            out.print()
            fail(str(chunk["error"].get("message", chunk)))
        for choice in chunk["choices"]:
            if piece := choice["delta"].get("content"):
                if not answering:
                    out.print("\n[bold]Answer[/]")
                    answering = True
                out.print(piece, end="", markup=False)
            ended = ended or choice.get("finish_reason") is not None
        if told := chunk.get("fusion"):
            _show(told, panel, chunk["id"])
    if not ended:
        out.print()
        fail("The answer broke off before its end.")


def _chunks(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in lines(response.iter_bytes()):
        data = line.removeprefix("data: ")
        if line.startswith("data: ") and data != "[DONE]":
            yield json.loads(data)


def _show(told: dict[str, Any], panel: Panel, answer: str) -> None:
    event = told.get("event", "")
    if event.startswith("panel."):
        panel.tell(told)
    elif event == "analysis.in_progress":
        out.print(f"[bold]Judge[/] ({escape(told['model'])}) compares …")
    elif event == "analysis.completed" and "analysis" in told:
        show_analysis(told["analysis"])
    elif event == "analysis.completed":
        out.print(f"[yellow]no analysis: {escape(told['failure_reason'])}[/]")
    elif not event:
        out.print("\n")
        show_stages(told)
        if route := told.get("route"):
            show_route(route, answer)
        if identity := told.get("id"):
            out.print(f"[dim]fusion show {identity}[/]")
