"""`fusion ask`: one question, with everything that happens on the way, live."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import typer
from rich.markup import escape

from serve.cli.common import Json, Port, Url, credentials, fail, out, print_json, server_url
from serve.cli.telling import Panel, show_analysis, show_stages
from serve.lines import lines


def register(app: typer.Typer) -> None:
    app.command()(ask)


def ask(
    question: Annotated[str, typer.Argument(help="The question; '-' reads standard input.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model, alias, or fusion/<panel>.")
    ] = "fusion/default",
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
    text = sys.stdin.read() if question == "-" else question
    body: dict[str, Any] = {
        "model": f"fusion/{panel}" if panel else model,
        "messages": [{"role": "user", "content": text}],
        "fusion": {"expose_panel": show_panel, "events": True},
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    base = server_url(url, port)
    try:
        if as_json:
            _whole(base, body)
        else:
            _live(base, body, show_panel)
    except httpx.HTTPError as error:
        fail(f"No fusion server answers at {base} ({type(error).__name__}). Start it: fusion up")


def _whole(base: str, body: dict[str, Any]) -> None:
    url = f"{base}/v1/chat/completions"
    # The server ends it at the request's own deadline, which may be at most a day away.
    timeout = httpx.Timeout(86_400, connect=5)
    response = httpx.post(url, json=body, timeout=timeout, headers=credentials(base))
    print_json(response.json())
    if response.status_code != 200:
        raise typer.Exit(1)


def _live(base: str, body: dict[str, Any], show_panel: bool) -> None:
    url, body = f"{base}/v1/chat/completions", body | {"stream": True}
    timeout = httpx.Timeout(60, connect=5)  # the server's heartbeats keep a long wait alive
    panel = Panel(whole=show_panel)
    try:
        with httpx.stream(
            "POST", url, json=body, timeout=timeout, headers=credentials(base)
        ) as response:
            if response.status_code != 200:
                fail(_message(json.loads(response.read())))
            _read(response, panel)
    finally:
        panel.close()


def _read(response: httpx.Response, panel: Panel) -> None:
    answering = False
    for chunk in _chunks(response):
        if "error" in chunk:
            out.print()
            fail(_message(chunk))
        for choice in chunk["choices"]:
            if piece := choice["delta"].get("content"):
                if not answering:
                    out.print("\n[bold]Answer[/]")
                    answering = True
                out.print(piece, end="", markup=False)
        if told := chunk.get("fusion"):
            _show(told, panel)


def _chunks(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in lines(response.iter_bytes()):
        data = line.removeprefix("data: ")
        if line.startswith("data: ") and data != "[DONE]":
            yield json.loads(data)


def _message(body: dict[str, Any]) -> str:
    return escape(str(body.get("error", {}).get("message", body)))


def _show(told: dict[str, Any], panel: Panel) -> None:
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
        if identity := told.get("id"):
            out.print(f"[dim]fusion show {identity}[/]")
