"""`fusion ask`: one question, with everything that happens on the way, live."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import typer
from rich.markup import escape
from rich.table import Table

from serve.cli.common import Json, Port, Url, fail, out, print_json, server_url


def register(app: typer.Typer) -> None:
    app.command()(ask)


def ask(
    question: Annotated[str, typer.Argument(help="The question; '-' reads standard input.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model, alias, or fusion/<panel>.")
    ] = "fusion/default",
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens.")
    ] = None,
    port: Port = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Ask, and watch: each panelist as it finishes, the judge's analysis, the answer live."""
    text = sys.stdin.read() if question == "-" else question
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "fusion": {"expose_panel": True, "events": True},
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    base = server_url(url, port)
    try:
        if as_json:
            _whole(base, body)
        else:
            _live(base, body)
    except httpx.HTTPError as error:
        fail(f"No fusion server answers at {base} ({type(error).__name__}). Start it: fusion up")


def _whole(base: str, body: dict[str, Any]) -> None:
    response = httpx.post(f"{base}/v1/chat/completions", json=body, timeout=None)  # noqa: S113
    print_json(response.json())
    if response.status_code != 200:
        raise typer.Exit(1)


def _live(base: str, body: dict[str, Any]) -> None:
    body |= {"stream": True}
    timeout = httpx.Timeout(60, connect=5)  # the server's heartbeats keep a long wait alive
    with httpx.stream(
        "POST", f"{base}/v1/chat/completions", json=body, timeout=timeout
    ) as response:
        if response.status_code != 200:
            fail(_message(json.loads(response.read())))
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
                _show(told)


def _chunks(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        data = line.removeprefix("data: ")
        if line.startswith("data: ") and data != "[DONE]":
            yield json.loads(data)


def _message(body: dict[str, Any]) -> str:
    return escape(str(body.get("error", {}).get("message", body)))


def _show(told: dict[str, Any]) -> None:
    match told.get("event"):
        case "panel.completed":
            out.print(f"\n[green]✓ {escape(told['model'])}[/]")
            out.print(told["content"].strip(), style="dim", markup=False)
        case "panel.failed":
            out.print(f"\n[red]✗ {escape(told['model'])}[/]  {escape(told['error'])}")
        case "analysis.in_progress":
            out.print(f"\n[bold]Judge[/] ({escape(told['model'])}) compares …")
        case "analysis.completed" if "analysis" in told:
            _show_analysis(told["analysis"])
        case "analysis.completed":
            out.print(f"[yellow]no analysis: {escape(told['failure_reason'])}[/]")
        case None:
            out.print("\n")
            _show_stages(told)


def _show_analysis(analysis: dict[str, Any]) -> None:
    lines = {
        "Consensus": analysis["consensus"],
        "Contradictions": [
            f"{item['topic']}: "
            + "; ".join(f"{one['model']}: {one['stance']}" for one in item["stances"])
            for item in analysis["contradictions"]
        ],
        "Partial coverage": [
            f"{', '.join(item['models'])}: {item['point']}" for item in analysis["partial_coverage"]
        ],
        "Unique insights": [
            f"{item['model']}: {item['insight']}" for item in analysis["unique_insights"]
        ],
        "Blind spots": analysis["blind_spots"],
    }
    for title, points in lines.items():
        if points:
            out.print(f"  [cyan]{title}[/]")
        for point in points:
            out.print(f"    • {point}", markup=False)


def _show_stages(told: dict[str, Any]) -> None:
    table = Table("stage", "model", "in", "out", "seconds", "USD", box=None, pad_edge=False)
    for stage in told.get("stages", ()):
        table.add_row(
            stage["role"],
            escape(stage.get("member") or stage["model"]),
            str(stage["input_tokens"]),
            str(stage["output_tokens"]),
            f"{stage['seconds']:.2f}",
            stage["cost_usd"] or "?",
        )
    out.print(table)
