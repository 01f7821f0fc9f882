"""`fusion draco`: the deep research benchmark, scored as its authors do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from serve.cli.common import Json, err, out, plainly, print_json

app = typer.Typer(
    name="draco",
    help="The deep research benchmark DRACO, scored as its authors do.",
    no_args_is_help=True,
)


def register(root: typer.Typer) -> None:
    root.add_typer(app)


@app.command()
def score(
    verdicts: Annotated[
        Path,
        typer.Argument(
            help='JSON: {"runs": [{"verdicts": [{"criterion_id", "weight", '
            '"verdict": "MET" | "UNMET" | null}]}]}',
            show_default=False,
        ),
    ],
    as_json: Json = False,
) -> None:
    """Score the judge runs over one answer: normalised score, pass rate, raw and maximum."""
    from serve.evaluation.draco.scoring import score_runs
    from serve.evaluation.draco.verdicts import read_verdicts

    with plainly():
        scored = score_runs(read_verdicts(verdicts))
    if as_json:
        print_json(scored.as_json())
        return
    table = Table(
        "run",
        "score",
        "pass rate",
        "raw",
        "maximum",
        "criteria",
        "dropped",
        box=None,
        pad_edge=False,
    )
    for number, run in enumerate(scored.runs, 1):
        figures = (run.raw_score, run.max_score, run.criteria, run.dropped)
        table.add_row(
            str(number),
            f"{run.normalized_score:.2f}",
            f"{run.pass_rate:.2%}",
            *(f"{figure:g}" for figure in figures),
        )
    table.add_row(
        "mean",
        f"{scored.normalized_score:.2f}",
        f"{scored.pass_rate:.2%}",
        f"{scored.raw_score:g}",
        f"{scored.max_score:g}",
    )
    out.print(table)
    out.print(f"spread of the scores (population standard deviation): {scored.std:.2f}")


@app.command()
def validate(
    data: Annotated[Path, typer.Argument(help="The benchmark's JSON lines.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Check a data file, and count it. Other counts than the public set's are a warning."""
    from serve.evaluation.draco.dataset import count, differences, read_tasks

    with plainly():
        counts = count(read_tasks(data))
    other = differences(counts)
    if as_json:
        print_json(asdict(counts) | {"public": not other, "differences": other})
        return
    out.print(
        f"{data}: {counts.tasks} tasks in {counts.domains} domains, {counts.criteria} criteria, "
        f"{counts.negative} of them negative"
    )
    for line in other:
        err.print(f"[yellow]warning:[/] {line}")
    if not other:
        out.print("These are the counts of the public set.")
