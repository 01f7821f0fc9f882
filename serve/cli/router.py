"""`fusion router`: train the router on outcomes, and measure it on others."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from serve.cli.common import (
    Json,
    Port,
    Url,
    err,
    out,
    plainly,
    print_json,
    writable,
)
from serve.cli.reach import (
    ask,
    server_url,
)

if TYPE_CHECKING:
    from router.encoder import Encoder
    from router.evaluate import Interval
    from router.report import Report

app = typer.Typer(
    name="router",
    help="The learned router: train it on what happened, measure it on what it has not seen.",
    no_args_is_help=True,
)

Data = Annotated[
    list[Path],
    typer.Argument(
        help="JSON lines, gzipped or not: prompt, task, source, outcomes {model: {score, cost}}.",
        show_default=False,
    ),
]
WithEncoder = Annotated[
    bool,
    typer.Option(
        "--encoder/--no-encoder",
        help="Use the sentence encoder if its packages are installed.",
    ),
]


@app.command()
def train(
    data: Data,
    out_file: Annotated[
        Path, typer.Option("--out", "-o", help="Where the weights go (.npz).", show_default=False)
    ],
    encoder: WithEncoder = True,
) -> None:
    """Learn weights from the outcomes in DATA and write them to a file.

    Rows that the same models answered are learned together; several sources may be given at
    once. About 15 milliseconds a row with the encoder, 5 without.
    """
    with plainly():
        from router.data import read_rows
        from router.store import save_model
        from router.train import train as learn

        writable(out_file)
        rows, began = read_rows(data), time.monotonic()
        found = _encoder(encoder)
        model = learn(rows, found)
        save_model(model, out_file)
    out.print(
        f"learned from {len(rows)} rows in {time.monotonic() - began:.0f} s "
        f"{'with and without' if found else 'without'} the encoder; "
        f"{out_file} has {out_file.stat().st_size / 1e6:.2f} MB"
    )
    for family in model.plain.families:
        out.print(f"  {family.rows} rows: {', '.join(family.models)}")


@app.command("eval")
def evaluate(
    data: Data,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            "-w",
            help="Weights to measure. Default: those that ship.",
            show_default=False,
        ),
    ] = None,
    same_as: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            "-m",
            metavar="NAME=KNOWN",
            help="A model name of DATA and what the weights call it; may be repeated. "
            "Default: names they do not know are placed by order of price.",
        ),
    ] = None,
    encoder: WithEncoder = True,
    as_json: Json = False,
) -> None:
    """Measure weights on the outcomes in DATA, beside baselines, with 95% intervals.

    Two models: APGR, CPT50 and CPT80 as RouteLLM defines them. With costs: quality against cost
    beside the best mixture of constant models.
    """
    with plainly():
        from router.data import read_rows
        from router.report import evaluate as measure
        from router.store import load_model, shipped_model

        rows = read_rows(data)
        model = load_model(weights) if weights else shipped_model()
        report = measure(model, rows, _mapping(same_as or []), _encoder(encoder))
    for sentence in report.skipped.said():
        err.print(f"[yellow]note:[/] {escape(sentence)}")
    if report.trained_on:
        err.print(
            f"[yellow]note:[/] about {report.trained_on:.0%} of these rows were in the training "
            "data of these weights: figures on them promise nothing for others"
        )
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        _show(report)


@app.command()
def status(url: Url = None, port: Port = None, as_json: Json = False) -> None:
    """Show what the running router knows, and how well it does."""
    told = ask(server_url(url, port), "GET", "/v1/router")
    if as_json:
        print_json(told)
        return
    if told["refused"]:
        err.print(f"[red]the weights were refused, those that ship are used:[/] {told['refused']}")
    table = Table("figure", "value", box=None, show_header=False)
    for name, value in told.items():
        if value is not None and name not in ("lessons", "signs", "known_models"):
            shown = f"{value:.4f}" if isinstance(value, float) else str(value)
            table.add_row(name.replace("_", " "), shown)
    out.print(table)
    for model, lessons in told["lessons"].items():
        # A look at an answer is a tenth of a lesson.
        out.print(f"  {lessons:.1f} lessons about {model}", markup=False)
    out.print(f"known from training: {', '.join(told['known_models'])}", markup=False)


@app.command()
def feedback(
    answer: Annotated[str, typer.Argument(help="The id of an answer.", show_default=False)],
    judgement: Annotated[
        str, typer.Argument(help="up, down, or a score from 0 to 1.", show_default=False)
    ],
    url: Url = None,
    port: Port = None,
) -> None:
    """Say how good an answer of fusion/auto was, for the router to learn from."""
    with plainly():
        body = {"id": answer, **_judgement(judgement)}
    told = ask(server_url(url, port), "POST", "/v1/feedback", body)
    out.print(f"{told['model'] or 'a panel'}: {told['score']:g}", markup=False)


@app.command("export")
def export_state(
    file: Annotated[Path, typer.Argument(help="Where it goes (JSON).", show_default=False)],
    url: Url = None,
    port: Port = None,
) -> None:
    """Write what was learned on line to a file."""
    told = ask(server_url(url, port), "GET", "/v1/router/state")
    with plainly():
        file.write_text(json.dumps(told), encoding="utf-8")
    out.print(f"Wrote {file}.", markup=False)


@app.command("import")
def import_state(
    file: Annotated[Path, typer.Argument(help="What `export` wrote.", show_default=False)],
    url: Url = None,
    port: Port = None,
) -> None:
    """Let every replica go on from what a file says was learned."""
    with plainly():
        state = _exported(file)
    ask(server_url(url, port), "PUT", "/v1/router/state", state)
    out.print("Imported.")


@app.command()
def reset(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    url: Url = None,
    port: Port = None,
) -> None:
    """Forget what was learned on line; the weights stay."""
    if not yes:
        typer.confirm("Forget everything that the router learned on line?", abort=True)
    ask(server_url(url, port), "DELETE", "/v1/router/state")
    out.print("Forgotten.")


def _exported(file: Path) -> dict[str, Any]:
    """What a file says was learned; the server looks closer. Raises ValueError."""
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict) or "learner" not in state:
        raise ValueError(f"{file} is not what `fusion router export` wrote")
    return state


def _judgement(word: str) -> dict[str, Any]:
    """The same as a field of the request. Raises ValueError."""
    if word in ("up", "down"):
        return {"thumb": word}
    with suppress(ValueError):
        if 0.0 <= (score := float(word)) <= 1.0:
            return {"score": score}
    raise ValueError(f"'{word}' is no judgement: say up, down, or a score from 0 to 1")


def _mapping(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, known = pair.partition("=")
        if not (name and equals and known):
            raise ValueError(f"--map {pair}: not of the form NAME=KNOWN")
        found[name] = known
    return found


def _encoder(wanted: bool) -> Encoder | None:
    from router.encoder import load_encoder

    encoder = load_encoder() if wanted else None
    if wanted and encoder is None:
        err.print("[yellow]note:[/] the sentence encoder is not installed; going on without it")
    return encoder


def _show(report: Report) -> None:
    out.print(f"{report.n} rows, {'with' if report.encoder else 'without'} the encoder")
    for name, known in report.mapping.items():
        out.print(f"  {name}" + ("" if name == known else f" as {known}"))
    figures = Table("figure", "value", "95% interval", title="The router")
    for name, figure in report.figures.items():
        figures.add_row(name, *_cells(figure))
    if report.figures:
        out.print(figures)
    baselines = Table("baseline", "APGR", "95% interval", title="Beside it")
    for name, figure in report.baselines.items():
        baselines.add_row(name, *_cells(figure))
    if report.baselines:
        out.print(baselines)
    if report.curve is None or report.mixture is None:
        return
    table = Table("constant", "$ a call", "quality", "router at that cost", title="Constants")
    for name, found in report.constants.items():
        numbers = (found["cost"], found["quality"], found["router_quality_at_cost"])
        table.add_row(name, f"{numbers[0]:.6f}", f"{numbers[1]:.4f}", f"{numbers[2]:.4f}")
    out.print(table)
    curve = Table("$ a call", "router", "best constant mixture", title="Quality against cost")
    low, high = report.mixture.cost[0], max(f["cost"] for f in report.constants.values())
    for step in range(9):
        cost = float(low * (high / low) ** (step / 8)) if low > 0 else float(high * step / 8)
        quality, constant = report.curve.quality_at(cost), report.mixture.quality_at(cost)
        curve.add_row(f"{cost:.6f}", f"{quality:.4f}", f"{constant:.4f}")
    out.print(curve)


def _cells(figure: Interval) -> tuple[str, str]:
    value = "never" if figure.value is None else f"{figure.value:.4f}"
    if figure.low is None or figure.high is None:
        return value, ""
    return value, f"{figure.low:.4f} to {figure.high:.4f}"
