"""`fusion eval`: systems on questions whose answers can be checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from serve.cli.batch import Server, line, remote_at, told
from serve.cli.common import Json, Port, err, fail, out, print_json, writable

if TYPE_CHECKING:
    from serve.evaluation.forecast import Forecast
    from serve.evaluation.outcome import Figures
    from serve.evaluation.work import Work
    from serve.jobs.remote import Card
    from serve.statistics import Interval

Systems = Annotated[
    Path,
    typer.Option("--systems", "-s", help="YAML; docs/evaluation.md has all.", show_default=False),
]
Budget = Annotated[
    float | None,
    typer.Option(min=0, help="US dollars for all of it; it stops cleanly before them."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Really ask a sample, estimate the dollars of all, and end."),
]
Plot = Annotated[Path | None, typer.Option(help="Draw cost against score to this PNG.")]

#: Columns of a terminal on which each line of a table stands in one line.
_ONE_LINE = 110


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)


def evaluate(
    file: Annotated[
        Path,
        typer.Argument(
            help='JSON lines: {"id", "question", "answer", "choices"?, "kind"?, "task"?}.',
            show_default=False,
        ),
    ],
    systems: Systems,
    budget: Budget = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    matched: Annotated[
        bool,
        typer.Option(
            "--matched/--no-matched",
            help="Beside each panel, its writer alone with as many calls, which vote.",
        ),
    ] = True,
    outcomes: Annotated[
        Path | None,
        typer.Option(help="Write what the models did, for: fusion router train (.jsonl.gz)."),
    ] = None,
    dry_run: DryRun = False,
    plot: Plot = None,
    address: Server = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy, cost and latency of systems on your own questions.

    Killed and begun again, it goes on; no answer is paid for twice.
    """
    from serve.evaluation import plot as plots
    from serve.evaluation import run
    from serve.evaluation.outcome import figures
    from serve.evaluation.questions import read_questions
    from serve.evaluation.systems import read_systems, with_matched

    with told():
        writable(plot)
        writable(outcomes)
        if plot is not None:
            plots.check()
        chosen = read_systems(systems)
        if outcomes is not None:
            run.check_teachable(chosen)
        chosen = with_matched(chosen) if matched else chosen
        questions = read_questions(file)[:tasks]
        with working(address, port, budget) as work:
            if dry_run or is_many(questions):
                cost = run.ahead(work, chosen, questions)
                affordable(work, cost)
            if dry_run:
                if as_json:
                    print_json(asdict(cost))
                return
            found = run.evaluate(work, chosen, questions)
        lines = figures(chosen, found, right_or_wrong=True)
        if outcomes is not None:
            count = run.teach(outcomes, chosen, questions, found, source=file.stem)
            err.print(f"{count} rows for the router in {outcomes}", markup=False)
        if plot is not None:
            plots.draw(plot, lines, "accuracy")
    if as_json:
        print_json({"systems": [asdict(one) for one in lines], "spent_usd": str(work.spent)})
        return
    show(lines, "accuracy", percent=True)
    out.print(f"\nspent now: ${work.spent}")


def is_many(things: Sequence[object]) -> bool:
    """Whether a sample of them says more than it costs."""
    from serve.evaluation.forecast import SAMPLE

    return len(things) > 2 * SAMPLE


def affordable(work: Work, cost: Forecast) -> None:
    """Say what it will cost. Raises Stopped where the budget is surely too small."""
    from serve.evaluation.work import Stopped

    if cost.usd is None:
        err.print(f"{cost.rows} rows; what they cost is unknown: a model has no price")
        return
    low, high = f"${cost.usd.low:.6f}", f"${cost.usd.high:.6f}"
    said = f"{cost.rows} rows cost about ${cost.usd.value:.6f} (95%: {low} to {high})"
    err.print(f"{said}, from a sample of {cost.sampled}")
    if work.budget is not None and cost.usd.low > work.budget:
        raise Stopped(
            f"That is more than the budget of ${work.budget}: raise it, or take fewer by --tasks."
        )


@contextmanager
def working(address: str | None, port: int | None, budget: float | None) -> Iterator[Work]:
    """Steps of an evaluation on the server, shown live. Ends in words where they stop."""
    from rich.live import Live

    from serve.evaluation.work import Stopped, Work

    with Live(console=err, auto_refresh=False, transient=True) as live:
        dollars = None if budget is None else Decimal(str(budget))

        def report(step: str, card: Card) -> None:
            live.update(f"{escape(step)}  {line(card)}", refresh=True)

        try:
            yield Work(remote_at(address, port), report, dollars)
        except Stopped as error:
            live.stop()
            fail(str(error))


def show(lines: Sequence[Figures], score: str, *, percent: bool) -> None:
    """The table, and what its columns mean. On a narrow terminal intervals stand under values."""
    # Between a value and its interval, and before the last word of a heading.
    gap = "\n" if out.is_terminal and out.width < _ONE_LINE else " "
    names = ("kind", f"{score}{gap}(95%)", f"above the{gap}first (95%)", "failed")
    table = Table(
        Column("system", overflow="fold"),
        *(Column(name, no_wrap=True) for name in (*names, f"USD{gap}a task", "seconds")),
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    for one in lines:
        table.add_row(
            escape(one.system),
            one.kind,
            _with_interval(one.score, percent, gap),
            _with_interval(one.above, percent, gap),
            str(one.failed),
            ("?" if one.usd is None else f"{one.usd:.6f}") + (" *" if one.on_front else ""),
            f"{one.seconds.value:.2f}",
        )
    out.print(table)
    for one in lines:
        if one.failed:
            why = one.why or "it answered nothing"
            out.print(f"{one.system}: {one.failed} of {one.tasks} failed: {why}", markup=False)
    out.print(
        f"{lines[0].tasks} tasks each; the first is {escape(lines[0].system)}; "
        "* nothing else is as good for less, or better for as much"
    )


def _with_interval(one: Interval, percent: bool, gap: str) -> str:
    unit, times = ("%", 100) if percent else ("", 1)
    value, low, high = (f"{times * x:.1f}" for x in (one.value, one.low, one.high))
    return f"{value}{unit}{gap}({low}..{high})"
