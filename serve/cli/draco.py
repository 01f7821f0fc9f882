"""`fusion draco`: the deep research benchmark, scored as its authors do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Column, Table

from serve.cli.batch import Server, told
from serve.cli.common import Json, Port, err, out, plainly, print_json, writable
from serve.cli.evaluate import (
    Budget,
    DryRun,
    Plot,
    Systems,
    affordable,
    is_many,
    show,
    working,
)

if TYPE_CHECKING:
    from serve.evaluation.draco.run import Agreement, Bench, Result
    from serve.evaluation.outcome import Figures

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


@app.command()
def run(
    data: Annotated[Path, typer.Option(help="The benchmark's JSON lines.", show_default=False)],
    systems: Systems,
    judge: Annotated[str, typer.Option(help="Who judges: a model or alias.", show_default=False)],
    second_judge: Annotated[
        str | None, typer.Option(help="Who judges a sample too. Default: the judge itself, again.")
    ] = None,
    protocol: Annotated[
        Literal["three-runs", "paper"],
        typer.Option(help="Three judge runs at temperature 0.2, or the paper's five."),
    ] = "three-runs",
    tasks: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines",
            help="Beside each panel, its judge alone and its judge fused with itself.",
        ),
    ] = True,
    budget: Budget = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for verdicts and figures.")
    ] = None,
    dry_run: DryRun = False,
    plot: Plot = None,
    address: Server = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Let systems answer the benchmark and a judge read it; every score beside its cost.

    Killed and begun again, it goes on; no answer is paid for twice.
    """
    from serve.evaluation import plot as plots
    from serve.evaluation.draco.dataset import count, differences, read_tasks
    from serve.evaluation.draco.judge import PROTOCOLS
    from serve.evaluation.draco.run import Bench
    from serve.evaluation.outcome import figures
    from serve.evaluation.systems import read_systems, with_baselines

    with told():
        writable(plot)
        if plot is not None:
            plots.check()
        known, chosen = read_tasks(data)[:tasks], read_systems(systems)
        chosen = with_baselines(chosen) if baselines else chosen
        for line in differences(count(known)) if tasks is None else ():
            err.print(f"[yellow]warning:[/] {line}")
        bench = Bench(known, judge, protocol, second_judge or judge)
        criteria = sum(len(task.criteria) for task in known)
        calls = len(chosen) * criteria * PROTOCOLS[protocol][0]
        err.print(f"{len(chosen) * len(known)} answers and {calls} verdicts to ask for")
        with working(address, port, budget) as work:
            if dry_run or is_many(known):
                cost = bench.ahead(work, chosen)
                affordable(work, cost)
            if dry_run:
                if as_json:
                    print_json(asdict(cost))
                return
            results, agreement = bench.run(work, chosen)
        lines = figures(
            chosen,
            {name: list(one.outcomes.values()) for name, one in results.items()},
            right_or_wrong=False,
        )
        told_all = _as_json(bench, lines, results, agreement, work.by_step)
        if out_folder is not None:
            _write(out_folder, results, told_all)
        if plot is not None:
            plots.draw(plot, lines, "score")
    if as_json:
        print_json(told_all)
    else:
        _show(bench, lines, results, agreement)
        out.print("\nspent now: " + ", ".join(f"{k} ${v}" for k, v in work.by_step.items()))


def _as_json(
    bench: Bench,
    lines: Sequence[Figures],
    results: Mapping[str, Result],
    agreement: Agreement | None,
    spent: Mapping[str, object],
) -> dict[str, Any]:
    from serve.evaluation.draco.run import leaning

    return {
        "protocol": bench.protocol,
        "judge": bench.judge,
        "agreement": None if agreement is None else asdict(agreement),
        "judge_says_met": asdict(leaning(results.values())),
        "spent_usd": {step: str(cost) for step, cost in spent.items()},
        "systems": [
            asdict(line)
            | {
                "pass_rate": _pass_rate(results[line.system]),
                "spread": _spread(results[line.system]),
                "dropped_verdicts": _dropped(results[line.system]),
                "unjudged": len(results[line.system].verdicts) - len(results[line.system].scores),
                "by_section": bench.by_section(results[line.system]),
                "by_domain": bench.by_domain(results[line.system]),
                "tasks_scored": {
                    task: score.as_json() for task, score in results[line.system].scores.items()
                },
            }
            for line in lines
        ],
    }


def _pass_rate(result: Result) -> float | None:
    """The mean over the tasks; one that failed passes nothing."""
    rates = [score.pass_rate for score in result.scores.values()]
    rates += [0.0 for one in result.outcomes.values() if one.failed]
    return sum(rates) / len(rates) if rates else None


def _spread(result: Result) -> float:
    """Population standard deviation of the tasks' scores; a task that failed is 0."""
    from serve.statistics import spread

    return spread([one.score for one in result.outcomes.values()])


def _dropped(result: Result) -> int:
    every = (one for runs in result.verdicts.values() for run in runs for one in run)
    return sum(one.verdict is None for one in every)


def _write(folder: Path, results: Mapping[str, Result], told_all: dict[str, Any]) -> None:
    """The figures, and each answer's verdicts in a file that `fusion draco score` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").write_text(json.dumps(told_all, indent=2), encoding="utf-8")
    for place, (name, result) in enumerate(results.items()):
        for number, (task, runs) in enumerate(result.verdicts.items()):
            file = {
                "system": name,
                "task": task,
                "runs": [{"verdicts": [asdict(one) for one in run]} for run in runs],
            }
            # Numbers, not names: those may hold anything.
            path = folder / f"verdicts-{place:02}-{number:03}.json"
            path.write_text(json.dumps(file), encoding="utf-8")


def _show(
    bench: Bench,
    lines: Sequence[Figures],
    results: Mapping[str, Result],
    agreement: Agreement | None,
) -> None:
    out.print(f"DRACO, {bench.protocol}, judged by {escape(bench.judge)}")
    show(lines, "score", percent=False)
    for title, rates in (("section", bench.by_section), ("domain", bench.by_domain)):
        found = {line.system: rates(results[line.system]) for line in lines}
        names = sorted({name for one in found.values() for name in one})
        table = Table(
            *(
                Column(name, overflow="fold")
                for name in (f"pass rate by {title}", *map(escape, found))
            ),
            box=None,
            pad_edge=False,
        )
        for name in names:
            cells = (f"{one[name]:.1%}" if name in one else "" for one in found.values())
            table.add_row(escape(name), *cells)
        out.print()
        out.print(table)
    for line in lines:
        result = results[line.system]
        rate, dropped = _pass_rate(result), _dropped(result)
        said = "?" if rate is None else f"{rate:.1%}"
        unjudged = len(result.verdicts) - len(result.scores)
        out.print(
            f"{escape(line.system)}: pass rate {said}, spread of the tasks' scores "
            f"{_spread(result):.1f}, {dropped} verdicts dropped, "
            f"{line.failed} failed (scored 0), {unjudged} not judged (scored 0)"
        )
    _show_judge(bench.judge, results, agreement)


def _show_judge(judge: str, results: Mapping[str, Result], agreement: Agreement | None) -> None:
    """How far the judge may be believed."""
    from serve.evaluation.draco.run import leaning

    met = leaning(results.values())
    shares = ("none" if one is None else f"{one:.1%}" for one in (met.positive, met.negative))
    out.print(
        "the judge says MET to {} of the positive criteria, {} of the negative".format(*shares)
    )
    if agreement is None:
        out.print("agreement of judges: nothing to compare")
    else:
        other = "itself, asked again" if agreement.other == judge else escape(agreement.other)
        share, kappa = agreement.share, agreement.kappa
        said = f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
        beyond = "both say one word only" if kappa is None else f"kappa {kappa:.2f}"
        out.print(f"agreement with {other} on {agreement.criteria} criteria: {said}, {beyond}")
    if met.is_blind:
        err.print(
            f"[yellow]warning:[/] {escape(judge)} says the same of every criterion, so these "
            "scores say nothing about the systems: take a stronger judge"
        )
