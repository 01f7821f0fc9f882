"""`fusion research`: a report with evidence, its citations checked word by word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve.cli.batch import Server, told
from serve.cli.common import CatalogFile, Port, err, fail, read_catalog, writable
from serve.cli.evaluate import Budget, working

if TYPE_CHECKING:
    from serve.evaluation.evidence import Stored

_BRAIN = "brain"


def register(app: typer.Typer) -> None:
    app.command()(research)


def research(
    question: Annotated[str, typer.Argument(help="What the report answers.", show_default=False)],
    sources: Annotated[
        str, typer.Option(help="A folder of documents, or: web (by the catalog's tools).")
    ] = "web",
    model: Annotated[
        str, typer.Option("--model", "-m", help="Who writes it: a panel, or any name.")
    ] = "fusion/default",
    planner: Annotated[
        str | None,
        typer.Option(help="Who plans the searches. Default: brain, if that is a name, else -m."),
    ] = None,
    reader: Annotated[
        str, typer.Option(help="Who picks the sentences of each source that matter.")
    ] = "fusion/auto",
    budget: Budget = 5.0,
    out_file: Annotated[
        Path | None, typer.Option("--out", "-o", help="Markdown file; its sources beside it.")
    ] = None,
    catalog: CatalogFile = None,
    address: Server = None,
    port: Port = None,
) -> None:
    """Plan, search, read, let a panel write, and keep only citations that quote their source."""
    from serve.evaluation import attribution, evidence, library
    from serve.evaluation import research as reports

    writable(out_file)
    with told(), working(address, port, budget) as work:
        tools = read_catalog(catalog).tools if sources == "web" else None
        known = {one["id"]: one for one in work.remote.get("/v1/models")["data"]}
        # A few search words need no whole panel, where the server has a name for its best model.
        planner = planner or (_BRAIN if _BRAIN in known else model)
        plan = work.ask("plan", [reports.plan_request(question, planner)])["plan"]
        queries = reports.read_plan(plan["answer"], question)
        if tools is not None:
            found = library.search_web(tools, queries)
        else:
            found = library.search_folder(Path(sources).expanduser(), queries)
        shown = reports.chosen(found, reports.room(known.get(model, {}).get("context")))
        read = work.ask("read", evidence.reading_requests(question, shown, reader))
        picked = evidence.read_evidence({name: row["answer"] for name, row in read.items()}, shown)
        asked = reports.report_request(question, shown, picked, model)
        report = work.ask("report", [asked])["report"]
        if report["status"] != "done":
            fail(f"The report could not be written: {report['error']}")
        checked = attribution.grounded(report["answer"], shown)
        rows = [plan, *read.values(), report]
        text = reports.markdown(question, checked, shown, picked, rows)
        if not (checked.kept or checked.placed):
            err.print(f"[yellow]warning:[/] {reports.UNPROVEN} A stronger model may quote.")
        if out_file is not None:
            out_file.write_text(text, encoding="utf-8")
            _store(out_file, shown)
            err.print(f"report in {out_file}", markup=False)
    if out_file is None:
        typer.echo(text)


def _store(report: Path, sources: list[Stored]) -> None:
    """The sources as they were shown, so that anybody can check the quotes."""
    folder = report.with_suffix(".sources")
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(sources, 1):
        text = f"{one.title}\n{one.url}\n\n{one.text}\n"
        (folder / f"{number:02}.txt").write_text(text, encoding="utf-8")
