"""`fusion sessions` and `fusion chat`: conversations that the server keeps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from serve.cli.common import (
    Json,
    Port,
    Url,
    out,
    plainly,
    print_json,
)
from serve.cli.reach import ask, check, client, data_of, reaching, save, server_url
from serve.control.headers import SESSION
from serve.heard import said_wrong

app = typer.Typer(
    name="sessions", help="Conversations that the server keeps.", no_args_is_help=True
)

Id = Annotated[str, typer.Argument(metavar="ID")]


def register(parent: typer.Typer) -> None:
    parent.add_typer(app)
    parent.command()(chat)


@app.command("list")
def show(
    archived: Annotated[bool, typer.Option("--archived", help="Those in the archive.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    url: Url = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """List sessions, the newest first."""
    query = f"?limit={limit}" + ("&archived=true" if archived else "")
    found = ask(server_url(url, port), "GET", f"/v1/sessions{query}")["data"]
    if as_json:
        print_json(found)
        return
    whole = Column("id", no_wrap=True)  # an id that is cut is none
    table = Table(whole, "name", "items", box=None, pad_edge=False)
    for one in found:
        table.add_row(one["id"], escape(one["name"]), str(one["length"]))
    out.print(table)


@app.command()
def read(identity: Id, url: Url = None, port: Port = None, as_json: Json = False) -> None:
    """Print what was said."""
    base, after, items = server_url(url, port), "", []
    while page := ask(base, "GET", f"/v1/sessions/{identity}/items?limit=1000{after}")["data"]:
        items += page
        after = f"&after={page[-1]['position']}"
    if as_json:
        print_json(items)
        return
    for item in items:
        who = item["model"] or item["message"]["role"]
        text = escape(_text(item["message"]))
        out.print(f"[bold]{escape(who)}[/]  [dim]{item['id']}[/]\n{text}\n")


def _text(message: dict[str, Any]) -> str:
    parts = [part.get("text", "[image]") for part in message.get("content", ())]
    calls = (
        f"[calls {call['name']} {call['arguments']}]" for call in message.get("tool_calls", ())
    )
    return "\n".join((*parts, *calls))


@app.command()
def fork(
    identity: Id,
    item: Annotated[str | None, typer.Option(help="The last item to take along.")] = None,
    name: Annotated[str | None, typer.Option()] = None,
    url: Url = None,
    port: Port = None,
) -> None:
    """Go on from some place in a new session. Prints its id."""
    body = {"item": item, "name": name}
    made = ask(server_url(url, port), "POST", f"/v1/sessions/{identity}/fork", body)
    typer.echo(made["id"])


@app.command()
def rename(identity: Id, name: str, url: Url = None, port: Port = None) -> None:
    """Give it another name."""
    ask(server_url(url, port), "PATCH", f"/v1/sessions/{identity}", {"name": name})


@app.command()
def archive(
    identity: Id,
    back: Annotated[bool, typer.Option("--back", help="Out of the archive again.")] = False,
    url: Url = None,
    port: Port = None,
) -> None:
    """Keep it as it is: nothing can be added."""
    ask(server_url(url, port), "PATCH", f"/v1/sessions/{identity}", {"archived": not back})


@app.command()
def delete(identity: Id, url: Url = None, port: Port = None) -> None:
    """Delete it for good, with all that was said."""
    ask(server_url(url, port), "DELETE", f"/v1/sessions/{identity}")


@app.command()
def export(identity: Id, url: Url = None, port: Port = None) -> None:
    """Print it as JSON lines."""
    save(server_url(url, port), f"/v1/sessions/{identity}/export")


@app.command("import")
def import_(file: Path, url: Url = None, port: Port = None) -> None:
    """Make a session of JSON lines. Prints its id."""
    base = server_url(url, port)
    with plainly():
        content = file.read_bytes()
    with reaching(base), client(base, 60) as server:
        answer = server.post("/v1/sessions/import", content=content)
    check(answer)
    typer.echo(data_of(answer)["id"])


def chat(
    model: Annotated[str, typer.Option("--model", "-m", help="Who answers.")] = "fusion/auto",
    session: Annotated[
        str | None, typer.Option("--session", help="Go on with this session.")
    ] = None,
    url: Url = None,
    port: Port = None,
) -> None:
    """Talk, line by line, in a session that the server keeps. `/model NAME` changes who answers."""
    base = server_url(url, port)
    if session is None:
        session = ask(base, "POST", "/v1/sessions", {})["id"]
    else:
        ask(base, "GET", f"/v1/sessions/{session}")
    out.print(f"[dim]session {session}; go on later with: fusion chat --session {session}[/]")
    interactive = sys.stdin.isatty()
    while line := _line(interactive):
        if line.startswith("/model "):
            model = line.removeprefix("/model ").strip()
            continue
        out.print(escape(_said(base, model, session, line)))


def _line(interactive: bool) -> str:
    """The next line that says something; empty at the end."""
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except (EOFError, KeyboardInterrupt):
            return ""
        if line:
            return line


def _said(base: str, model: str, session: str, text: str) -> str:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}]}
    with reaching(base), client(base, 600, {SESSION: session}) as server:
        answer = server.post("/v1/chat/completions", json=body)
    if not answer.is_success:
        return f"[{said_wrong(answer)}]"
    return str(data_of(answer)["choices"][0]["message"]["content"] or "")
