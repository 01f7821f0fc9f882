"""`fusion simulate`: what a trace of requests would cost under each scaling policy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.table import Table

from serve.cli.common import err, out, writable

if TYPE_CHECKING:
    from cluster.simulation.simulator import Result


def register(app: typer.Typer) -> None:
    app.command()(simulate)


def simulate(
    trace: Annotated[
        Path,
        typer.Option(help="CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens."),
    ],
    profile: Annotated[Path, typer.Option(help="Profile file, as `fusion profile` writes it.")],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="ours, serve-default, static:N, oracle, MODULE:CLASS or all; may be repeated."
        ),
    ] = None,
    spot: Annotated[bool, typer.Option("--spot", help="Spot nodes may be used.")] = False,
    spill: Annotated[
        bool, typer.Option("--spill", help="Requests that would be late go to the remote API.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print an object for each policy, one a line.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw replicas over time to this PNG.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the spot market's chance.")] = 0,
) -> None:
    """Replay a trace against scaling policies: dollars, first-token attainment, replica-hours."""
    from cluster.errors import ClusterError
    from cluster.profile import read_profile
    from cluster.simulation.contenders import COMPARED, policy_named, recovered
    from cluster.simulation.simulator import make_setting
    from cluster.simulation.trace import read_trace

    names = [
        name for given in policy or ["all"] for name in (COMPARED if given == "all" else (given,))
    ]
    # A user's own modules come last, so that they shadow none of ours.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    results: list[Result] = []
    try:
        if plot is not None:
            _check_plot(plot)
        checked = read_profile(profile)
        requests = read_trace(trace)
        if requests.unsorted:
            err.print(f"note: {requests.unsorted} rows were out of order and have been sorted")
        if spot and checked.node.spot is None:
            _refuse(f"{profile} has no node.spot: --spot has nothing to use")
        if spill and checked.remote is None:
            _refuse(f"{profile} has no remote section: --spill has nowhere to go")
        setting = make_setting(requests, checked, spot=spot, spill=spill, seed=seed)
        # All names first: nobody should wait for one policy to learn that the next is misspelt.
        policies = {name: policy_named(name) for name in names}
        for name, run in policies.items():
            result = _with_progress(name, partial(run, setting))
            results.append(result)
            if as_json:
                typer.echo(json.dumps(result.as_object()))
    except ClusterError as error:
        _refuse(str(error))
    if plot is not None:
        from cluster.simulation.plot import draw

        draw(results, plot)
    if as_json:
        return
    _show(results)
    by_name = {result.policy: result for result in results}
    if all(name in by_name for name in COMPARED):
        share = recovered(*(by_name[name] for name in COMPARED))
        if share is not None:
            out.print(f"ours saves {share:.0%} of what lies between serve-default and the oracle")


def _refuse(message: str) -> NoReturn:
    err.print(f"error: {message}", markup=False)
    raise typer.Exit(2)


def _check_plot(path: Path) -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        _refuse("--plot needs matplotlib: install it, or leave --plot out")
    writable(path)


def _with_progress(name: str, work: Callable[[Callable[[float], None]], Result]) -> Result:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(name, total=1.0)
        return work(lambda share: bar.update(task, completed=share))


def _show(results: list[Result]) -> None:
    table = Table(box=None, pad_edge=False)
    figures = ("dollars", "in time", "tpot ok", "p50 s", "p99 s", "replica-h", "shed", "spilled")
    for title in ("policy", *figures):
        table.add_column(title, justify="left" if title == "policy" else "right")
    for result in results:
        table.add_row(
            result.policy,
            f"{result.dollars:.2f}",
            f"{result.ttft_attainment:.2%}",
            f"{result.tpot_attainment:.2%}",
            f"{result.ttft_p50_s:.2f}",
            f"{result.ttft_p99_s:.2f}",
            f"{result.replica_hours:.1f}",
            str(result.shed),
            str(result.spilled),
        )
    out.print(table)
    for result in results:
        if result.settings:
            chosen = ", ".join(f"{key} {value:g}" for key, value in result.settings.items())
            out.print(f"{result.policy}: {chosen}")
