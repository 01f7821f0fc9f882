"""`fusion batch`: thousands of requests in the background, resumable, within a budget."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from serve.cli.common import (
    URL_VARIABLE,
    Json,
    Port,
    err,
    fail,
    out,
    plainly,
    print_json,
)
from serve.cli.reach import (
    credentials,
    server_url,
)

if TYPE_CHECKING:
    from serve.jobs.estimate import Estimate
    from serve.jobs.remote import Card, Remote

app = typer.Typer(
    name="batch",
    help="Thousands of requests in the background: resumable, within a budget, paid for once.",
    no_args_is_help=True,
)

Batch = Annotated[str, typer.Argument(help="The batch's id.", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results.")]
Deadline = Annotated[str, typer.Option(help="When to give up, as 30m, 8h or 2d from now.")]
Budget = Annotated[
    float | None, typer.Option(help="US dollars; the batch stops cleanly before it passes them.")
]
Server = Annotated[
    str | None,
    typer.Option(
        "--url", "--address", help="A server elsewhere, as http://host:port.", envvar=URL_VARIABLE
    ),
]


def register(root: typer.Typer) -> None:
    root.add_typer(app)


@app.command()
def submit(
    file: Annotated[
        Path,
        typer.Argument(
            help='JSON lines: {"id", "prompt"}, or OpenAI\'s batch form; docs/batch.md has all.',
            show_default=False,
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Who answers rows that name no model.")
    ] = "fusion/auto",
    out_folder: Out = None,
    budget: Budget = None,
    deadline: Deadline = "24h",
    priority: Annotated[
        Literal["low", "normal"], typer.Option(help="Low: behind whatever a person waits for.")
    ] = "low",
    on_bad_row: Annotated[
        Literal["report", "stop"],
        typer.Option(help="A line that cannot be read is reported, or ends it before it begins."),
    ] = "report",
    form: Annotated[
        Literal["jsonl", "parquet"], typer.Option("--format", help="What the results are in.")
    ] = "jsonl",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Really ask a sample, and estimate the whole from it."),
    ] = False,
    sample: Annotated[int, typer.Option(min=2, help="Rows of that sample.")] = 20,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return at once; see: fusion batch status")
    ] = False,
    address: Server = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Submit a batch, watch it, and write its results. Ctrl-C only stops watching."""
    from serve.jobs import output

    remote = remote_at(address, port)
    with told():
        if not dry_run and out_folder is not None and (owner := output.owner_of(out_folder)):
            fail(
                f"{out_folder} holds the results of {owner}: choose another folder, or get those "
                f"with: fusion batch results {owner} --out {out_folder}",
                2,
            )
        ours: dict[str, Any] = {
            "model": model,
            "budget_usd": budget,
            "priority": priority,
            "bad_rows": on_bad_row,
        }
        if dry_run:
            found = _dry_run(remote, file, sample, deadline, ours)
            print_json(asdict(found)) if as_json else _show_estimate(found)
            return
        if out_folder is not None:
            out_folder.mkdir(parents=True, exist_ok=True)  # what cannot be is said before it costs
        card = remote.create(remote.upload_file(file), window=deadline, **ours)
        if out_folder is not None:
            with written(out_folder, card["id"]):
                output.claim(out_folder, card["id"])
        if not as_json:
            out.print(f"batch {card['id']}")
        if not detach:
            card = _watch(remote, card["id"])
            if out_folder is not None:
                _write(remote, card["id"], out_folder, form)
    print_json(card) if as_json else _show(card)
    if not detach and card["status"] != "completed":
        raise typer.Exit(1)


@app.command("list")
def show_all(
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    address: Server = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """List batches, the newest first."""
    with told():
        cards = remote_at(address, port).get(f"/v1/batches?limit={limit}")["data"]
    if as_json:
        print_json(cards)
        return
    table = Table("batch", "state", "done", "failed", "rows", "USD", box=None, pad_edge=False)
    for card in cards:
        counts = card["request_counts"]
        table.add_row(
            card["id"],
            _state(card),
            *(str(counts[name]) for name in ("completed", "failed", "total")),
            card["fusion"]["spent_usd"],
        )
    out.print(table)


@app.command()
def status(
    batch: Batch,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Watch until it has ended.")] = False,
    address: Server = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Show how far a batch is: rows, tokens by tier, dollars spent and projected, time left."""
    remote = remote_at(address, port)
    with told():
        card = _watch(remote, batch) if wait else remote.get(f"/v1/batches/{batch}")
    print_json(card) if as_json else _show(card)


@app.command()
def logs(batch: Batch, address: Server = None, port: Port = None) -> None:
    """Show what the batch's job has said."""
    with told():
        typer.echo(remote_at(address, port).text(f"/v1/batches/{batch}/logs"), nl=False)


@app.command()
def cancel(batch: Batch, address: Server = None, port: Port = None, as_json: Json = False) -> None:
    """Stop a batch; what is done is kept, and it can be resumed."""
    with told():
        card = remote_at(address, port).post(f"/v1/batches/{batch}/cancel")
    print_json(card) if as_json else _show(card)


@app.command()
def resume(
    batch: Batch,
    budget: Budget = None,
    deadline: Deadline = "24h",
    out_folder: Out = None,
    form: Annotated[
        Literal["jsonl", "parquet"], typer.Option("--format", help="What the results are in.")
    ] = "jsonl",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return at once.")] = False,
    address: Server = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Go on with a batch that was cancelled, ran out of money or time, or was killed."""
    remote = remote_at(address, port)
    body: dict[str, Any] = {"completion_window": deadline}
    if budget is not None:
        body["budget_usd"] = budget
    with told():
        card = remote.post(f"/v1/batches/{batch}/resume", body)
        if not detach:
            card = _watch(remote, batch)
            if out_folder is not None:
                _write(remote, batch, out_folder, form)
    print_json(card) if as_json else _show(card)
    if not detach and card["status"] != "completed":
        raise typer.Exit(1)


@app.command()
def results(
    batch: Batch,
    out_folder: Out = None,
    form: Annotated[
        Literal["jsonl", "parquet"], typer.Option("--format", help="What the results are in.")
    ] = "jsonl",
    address: Server = None,
    port: Port = None,
) -> None:
    """Write a batch's results, one row a line of its input; without --out, to the terminal."""
    remote = remote_at(address, port)
    with told():
        if out_folder is not None:
            _write(remote, batch, out_folder, form)
            return
        for row in remote.rows(batch):
            typer.echo(json.dumps(row, ensure_ascii=False))


def remote_at(address: str | None, port: int | None) -> Remote:
    from serve.jobs.remote import Remote

    base = server_url(address, port)
    return Remote(base, credentials(base))


@contextmanager
def told() -> Iterator[None]:
    """What the server or the files refuse ends with a sentence."""
    from serve.jobs.remote import RemoteError

    try:
        with plainly():
            yield
    except RemoteError as error:
        fail(str(error), 2 if error.status in (400, 404, 413) else 1)


@contextmanager
def written(folder: Path, batch: str) -> Iterator[None]:
    """A folder that cannot be written ends with a sentence, and loses nothing."""
    try:
        yield
    except OSError as error:
        fail(
            f"The results cannot be written to {folder}: {error.strerror or error}. "
            f"The server keeps them: fusion batch results {batch} --out FOLDER"
        )


def _write(remote: Remote, batch: str, folder: Path, form: Literal["jsonl", "parquet"]) -> None:
    from serve.jobs import output

    with written(folder, batch):
        output.claim(folder, batch)
        path = output.write(folder, remote.rows(batch), form)
    err.print(f"results in {path}", markup=False)


def _dry_run(
    remote: Remote, file: Path, size: int, deadline: str, ours: dict[str, Any]
) -> Estimate:
    """Ask some rows, drawn evenly. Their answers are kept, so the batch will not pay for them."""
    from serve.jobs.estimate import estimate

    draw = random.Random(0)  # noqa: S311  # wants no secrecy, only a spread
    chosen: list[bytes] = []
    total = 0
    with file.open("rb") as lines:
        for line in lines:
            if line.strip():
                total += 1
                # Every line of a file of unknown length with the same chance (Vitter 1985, R).
                if len(chosen) < size:
                    chosen.append(line)
                elif (place := draw.randrange(total)) < size:
                    chosen[place] = line
    content = b"".join(line if line.endswith(b"\n") else line + b"\n" for line in chosen)
    card = remote.create(remote.upload("sample.jsonl", content), window=deadline, **ours)
    card = _watch(remote, card["id"])
    seconds = (card["finalizing_at"] or 0) - (card["in_progress_at"] or 0)
    return estimate(list(remote.rows(card["id"])), total, float(seconds))


def _show_estimate(found: Estimate) -> None:
    out.print(f"{found.rows} rows, from a sample of {found.sampled} ({found.failed} failed):")
    for name, figure, pattern in (
        ("tokens", found.tokens, ",.0f"),
        ("US dollars", found.usd, ",.6f"),
        ("hours", found.hours, ",.3f"),
    ):
        if figure is None:
            out.print(f"  {name}: unknown")
        else:
            low, high = f"{figure.low:{pattern}}", f"{figure.high:{pattern}}"
            out.print(f"  {name}: {figure.value:{pattern}}  (95%: {low} to {high})")


def _watch(remote: Remote, batch: str) -> Card:
    """Show it live until it has ended."""
    from rich.live import Live

    with Live(console=err, auto_refresh=False, transient=True) as live:
        return remote.wait(batch, lambda card: live.update(line(card), refresh=True))


def line(card: Card) -> str:
    counts, ours = card["request_counts"], card["fusion"]
    parts = [
        f"[bold]{_state(card)}[/]",
        f"{counts['completed']} done, {counts['failed']} failed, {ours['running']} running "
        f"of {counts['total']}",
        *(
            f"{tier}: {used['input']:,} + {used['output']:,} tokens"
            for tier, used in ours["tokens"].items()
        ),
        f"${ours['spent_usd']}"
        + (f" of ${ours['projected_usd']} projected" if ours["projected_usd"] else ""),
    ]
    if ours["seconds_left"] is not None:
        parts.append(f"{ours['seconds_left']:.0f} s left")
    return "  ·  ".join(parts)


def _state(card: Card) -> str:
    ours = card["fusion"]
    if ours["interrupted"]:
        return "interrupted"
    return f"{card['status']} ({ours['why']})" if ours["why"] else str(card["status"])


def _show(card: Card) -> None:
    out.print(f"{card['id']}  {line(card)}")
    if card["fusion"]["interrupted"]:
        out.print(f"Nobody works on it. Go on with: fusion batch resume {card['id']}")
    for error in (card["errors"] or {"data": ()})["data"]:
        out.print(f"  line {error['line']}: {error['message']}", markup=False)
