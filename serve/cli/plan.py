"""`fusion plan`: a task as a graph of subtasks, carried out live."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import yaml
from rich.markup import escape
from rich.table import Table

from models.errors import BadRequest
from serve.cli.common import (
    Json,
    Port,
    Url,
    err,
    fail,
    out,
    print_json,
)
from serve.cli.reach import ask, events, server_url
from serve.control.headers import WAIT
from serve.heard import lines
from serve.jobs.batch import seconds
from serve.plans import reading, templates

#: How a stream ends that was not cut off.
_LAST = "plan.completed"
_MARKS = {"completed": "[green]✓[/]", "failed": "[red]✗[/]", "skipped": "[yellow]–[/]"}


def register(app: typer.Typer) -> None:
    app.command()(plan)
    app.command("plans")(plans)


def plan(
    task: Annotated[
        str | None, typer.Argument(help="The task; '-' reads standard input.", show_default=False)
    ] = None,
    template: Annotated[
        str | None, typer.Option(help=f"A plan that ships: {', '.join(templates.names())}.")
    ] = None,
    graph: Annotated[
        Path | None, typer.Option(help="A graph of your own, in YAML or JSON.")
    ] = None,
    documents: Annotated[
        Path | None, typer.Option(help="A folder whose documents are read first.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Dollars that the whole may cost; what is done is returned.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="The id of a plan that broke off; nothing is paid twice.")
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            help="Time that the whole may take, as 30m or 8h. Default: as any request's.",
        ),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0, max=86_400, help="Seconds to wait where a policy asks a person on the way."
        ),
    ] = None,
    port: Port = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Plan a task, do its subtasks in parallel, and write the answer."""
    body: dict[str, Any] = {"stream": not as_json}
    if budget is not None:
        body["budget_usd"] = budget
    if deadline is not None:
        body["deadline_s"] = _seconds(deadline)
    if resume is not None:
        path = f"/v1/plans/{resume}/resume"
    else:
        path = "/v1/plans"
        body |= _asked(task, template, graph, documents)
    base = server_url(url, port)
    said = {} if wait is None else {WAIT: f"{wait:.3f}"}
    if as_json:
        print_json(ask(base, "POST", path, body, timeout_s=86_400, said=said))
        return
    _live(base, path, body, said)


def _seconds(deadline: str) -> float:
    try:
        return seconds(deadline)
    except BadRequest as error:
        fail(error.message, 2)


def _asked(
    task: str | None, template: str | None, graph: Path | None, documents: Path | None
) -> dict[str, Any]:
    text = sys.stdin.read() if task == "-" else task
    if not text:
        fail("Say what is to be done: fusion plan 'Compare the options for ...'", 2)
    body: dict[str, Any] = {"task": text}
    if template is not None:
        body["template"] = template
    if graph is not None:
        try:
            body["graph"] = yaml.safe_load(graph.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            fail(f"{graph} cannot be read: {error}", 2)
    if documents is not None:
        try:
            texts, left_out = reading.read_folder(documents)
        except reading.BadDocument as error:
            fail(str(error), 2)
        for line in left_out:
            err.print(f"left out: {line}", markup=False)
        body["documents"] = [{"name": name, "text": text} for name, text in texts.items()]
    return body


def plans(
    plan_id: Annotated[
        str | None, typer.Argument(help="One of them, whole.", show_default=False)
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop it; it can be resumed.")] = False,
    pause: Annotated[
        bool, typer.Option("--pause", help="Begin nothing new; what is under way is kept.")
    ] = False,
    port: Port = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List plans, or show, pause or cancel one."""
    base = server_url(url, port)
    if plan_id is None and (cancel or pause):
        fail("Say which plan: fusion plans ID --cancel", 2)
    if plan_id is None:
        found = ask(base, "GET", "/v1/plans")["data"]
        if as_json:
            print_json(found)
            return
        table = Table("id", "status", "task", box=None, pad_edge=False)
        for one in found:
            table.add_row(one["id"], one["status"], escape(one["task"][:80]))
        out.print(table)
        return
    if cancel or pause:
        shown = ask(base, "POST", f"/v1/plans/{plan_id}/{'cancel' if cancel else 'pause'}")
    else:
        shown = ask(base, "GET", f"/v1/plans/{plan_id}")
    if as_json:
        print_json(shown)
        return
    out.print(f"{shown['id']}: {shown['status']}\n{shown['task']}\n", markup=False)
    for result in shown["results"]:
        out.print(f"[bold]{result['id']}[/] ({escape(str(result.get('model', '')))})")
        out.print(result["text"].strip(), style="dim", markup=False)
    if shown.get("answer"):
        out.print("\n[bold]Answer[/]")
        out.print(shown["answer"], markup=False)


def _live(base: str, path: str, body: dict[str, Any], said: Mapping[str, str]) -> None:
    kind = ""
    with events(base, path, body, said) as response:
        for kind, data in _events(response):
            _show(kind, data)
    if kind != _LAST:
        out.print()
        fail("The stream ended before the plan did; see: fusion plans")


def _events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = ""
    for line in lines(response.iter_bytes()):
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


def _show(kind: str, data: dict[str, Any]) -> None:
    match kind:
        case "error":
            out.print()
            if "plan" in data:
                err.print(f"What is done is kept. To go on: fusion plan --resume {data['plan']}")
            fail(data["message"])
        case "approval.required":
            out.print(f"[yellow]{escape(data['message'])}[/]")
            out.print(f"[dim]fusion approvals approve {data['id']}[/]")
        case "plan.in_progress":
            out.print(f"[bold]{escape(data['model'])}[/] plans …  [dim]{data['id']}[/]")
        case "plan.created" | "plan.changed":
            _tree(data["subtasks"])
            if "estimate" in data:
                _show_estimate(data["estimate"])
        case "plan.subtask.in_progress" if "attempt" in data:
            again = f"  try {data['attempt']}" if data["attempt"] > 1 else ""
            out.print(f"  [dim]▸ {data['id']}  {escape(data['model'])}{again}[/]")
        case "plan.writing":
            missing = f"; without {', '.join(data['missing'])}" if data["missing"] else ""
            out.print(f"\n[bold]Answer[/] ({escape(data['model'])}{missing})")
        case "plan.answer.delta":
            out.print(data["text"], end="", markup=False)
        case "plan.completed":
            out.print("\n")
            _show_shares(data)
        case _ if (mark := _MARKS.get(kind.removeprefix("plan.subtask."))) is not None:
            price = f"  {data['cost_usd']} USD" if data.get("cost_usd") else ""
            took = f"  {data['seconds']:.1f} s" if "seconds" in data else ""
            why = f"  {escape(data['error'])}" if data.get("error") else ""
            out.print(
                f"  {mark} {data['id']}  {escape(str(data.get('model', '')))}{took}{price}{why}"
            )


def _tree(subtasks: list[dict[str, Any]]) -> None:
    for one in subtasks if len(subtasks) <= 40 else subtasks[:40]:
        needs = f"  ← {', '.join(one['needs'])}" if one["needs"] else ""
        out.print(f"  {one['kind']:8} {one['id']}{needs}", markup=False)
    if len(subtasks) > 40:
        out.print(f"  … and {len(subtasks) - 40} more")


def _show_estimate(told: dict[str, Any]) -> None:
    without = f", without what {', '.join(told['unpriced'])} costs" if "unpriced" in told else ""
    out.print(f"[dim]estimate: {told['from_usd']} to {told['to_usd']} USD{without}[/]")


def _show_shares(told: dict[str, Any]) -> None:
    table = Table("share", "tokens", "USD", box=None, pad_edge=False)
    for name, share in told["shares"].items():
        table.add_row(name, str(share["tokens"]), share["cost_usd"])
    out.print(table)
    if told.get("fallback"):
        out.print(f"[yellow]{escape(told['fallback'])}[/]")
    if told.get("budget_ended"):
        out.print("[yellow]The budget ended before every subtask was done.[/]")
    out.print(f"[dim]{told['id']}: {told['cost_usd']} USD; fusion plans {told['id']}[/]")
