"""`fusion up`, `down`, `status`: the server and its parts."""

from __future__ import annotations

import asyncio
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cluster import existing, installation, launch, serving
from models import weights
from models.answerer import SystemClock
from models.catalog import Catalog
from models.errors import FusionError
from models.spec import VllmModel
from models.workforce.names import hosted
from serve import applications as serve_config
from serve.access import secret
from serve.access.secret import NoSecret
from serve.cli import scaling
from serve.cli.common import (
    CatalogFile,
    Json,
    Port,
    Url,
    default_port,
    fail,
    out,
    print_json,
    read_catalog,
    store_url,
)
from serve.cli.reach import data_of, get, server_url
from serve.editions.changes import changes
from serve.settings import Settings

if TYPE_CHECKING:
    from serve.editions.history import Version

#: What the application's gateways, judge and router each reserve (see `serve.app`).
LIGHT_CPUS = 0.1


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(
    catalog: CatalogFile = None,
    port: Port = None,
    host: Annotated[
        str | None, typer.Option(help="Address to serve on. Default: the catalog's, 127.0.0.1.")
    ] = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach",
            "-d",
            help="Return when ready, as --address always does; stop with: fusion down",
        ),
    ] = False,
    take_file: Annotated[
        bool,
        typer.Option(
            "--take-file", help="Let the catalog file rule, also where 'fusion apply' came after."
        ),
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(help="Serve on a Ray cluster that runs: its dashboard, as in 10.0.0.5:8265."),
    ] = None,
) -> None:
    """Start the cluster on this machine and serve until Ctrl-C."""
    known = read_catalog(catalog)
    chosen_port, chosen_host = port or known.server.port, host or known.server.host
    settings = Settings(catalog=known, store=store_url(known, chosen_port), host=chosen_host)
    if address is not None:
        _on_existing(address, settings, chosen_port, take_file)
        return
    if detach:
        _detached(chosen_port, chosen_host, catalog, take_file)
        return
    # Said for both: a script's background job begins with Ctrl-C ignored.
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, _interrupt)
    began = time.monotonic()

    def report(line: str) -> None:
        out.print(f"[dim]{time.monotonic() - began:6.1f} s[/]  {line}")

    try:
        # The port first: nobody should wait for weights to learn that it is taken.
        launch.check_port(chosen_host, chosen_port)
        ruling, guarded = asyncio.run(_opened(settings, take_file))
        _report_difference(ruling, known, report)
        _prepare_weights(ruling.catalog, report)
        with launch.head(chosen_host, chosen_port, _cpus(ruling.catalog), report) as made:
            report("Starting models and gateway")
            applications = serve_config.applications(settings, ruling.catalog)
            serving.deploy(made, applications)
            serving.wait_until_running(made, [one["name"] for one in applications], report)
            serving.wait_until_answering(made)
            made.now_ready().save()
            report(f"Ready at {made.url}/v1")
            _print_first_request(made.url, ruling.catalog, guarded)
            out.print("\nCtrl-C stops it.")
            _serve(made)
    except (launch.LaunchError, weights.WeightsError, NoSecret, FusionError, ValueError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        out.print("Stopped; nothing is left running.")


def _on_existing(address: str, settings: Settings, port: int, take_file: bool) -> None:
    """Put it all on a cluster that runs, beside what others have there, and return."""
    try:
        made = existing.reach(address, settings.host, port)
        ruling, guarded = asyncio.run(_opened(settings, take_file))
        _report_difference(ruling, settings.catalog, out.print)
        applications = serve_config.applications(settings, ruling.catalog)
        existing.deploy(made, applications)
        serving.wait_until_running(made, [one["name"] for one in applications], out.print)
        serving.wait_until_answering(made)
    except (launch.LaunchError, NoSecret, FusionError, ValueError) as error:
        fail(str(error))
    out.print(f"Ready at {made.url}/v1, and stays so: 'fusion down --address' takes it off again.")
    _print_first_request(made.url, ruling.catalog, guarded)


def _interrupt(*_: int | FrameType | None) -> None:
    raise KeyboardInterrupt


async def _opened(settings: Settings, take_file: bool) -> tuple[Version, bool]:
    """The catalog that this start puts in force, and whether callers need a key.

    Ends the command where strangers could reach a server that has no keys.
    """
    from serve.access.book import KeyBook
    from serve.editions.history import History
    from serve.store import migrate
    from serve.store.database import Database

    clock = SystemClock()
    database = Database(settings.store)
    try:
        await migrate.upgrade(database)
        guarded = await KeyBook(database, secret.read(settings.folder), clock).any()
        if not guarded and not settings.local:
            fail(
                f"Without API keys the server answers this machine only, so not on "
                f"{settings.host}. Make a key first: fusion keys create",
                2,
            )
        return await History(database, clock).ruling(settings.catalog, take_file=take_file), guarded
    finally:
        await database.close()


def _report_difference(ruling: Version, file: Catalog, report: launch.Report) -> None:
    differing = changes(ruling.catalog, file)
    if not differing:
        return
    report(
        f"The catalog's version {ruling.version} rules ('{ruling.origin}'), not the file. "
        "'fusion apply', or --take-file here, would change:"
    )
    for change in differing:
        report(f"  {change}")


def _cpus(catalog: Catalog) -> float:
    """Logical CPUs for Ray to hand out: at least what the catalog's replicas reserve.

    They are places, not cores: a small machine runs the default catalog, only slower.
    """
    reserved = sum(spec.cpus * spec.replicas.max for spec in hosted(catalog).values())
    # Twice, because a model that changes starts beside the one that it replaces.
    return math.ceil(
        2 * reserved + LIGHT_CPUS * (catalog.server.gateways + catalog.server.judges.max + 1) + 2
    )


def _prepare_weights(catalog: Catalog, report: launch.Report) -> None:
    sources = {
        spec.source
        for spec in catalog.models.values()
        if isinstance(spec, VllmModel) and spec.source.startswith(weights.PACKAGE)
    }
    for source in sorted(sources):
        if weights.prepared(source) is None:
            report(f"Preparing the weights of {source} (once, about half a minute)")
            weights.prepare(source)


def _print_first_request(url: str, catalog: Catalog, guarded: bool) -> None:
    model = "fusion/default" if "default" in catalog.panels else next(iter(catalog.models))
    out.print("\nTry it:\n")
    out.print(
        f"  curl {url}/v1/chat/completions -H 'content-type: application/json' "
        + ('-H "authorization: Bearer $FUSION_API_KEY" ' if guarded else "")
        + "-d "
        f'\'{{"model": "{model}", "max_tokens": 300, "messages": '
        '[{"role": "user", "content": "Why is the sky blue?"}]}\'',
        markup=False,
    )


def _serve(made: installation.Installation) -> None:
    """Until somebody stops it, or the cluster ends by itself."""
    while launch.running(made):
        time.sleep(1)
    raise launch.LaunchError(
        f"The cluster ended by itself; its logs: {made.temp}/session_latest/logs"
    )


def _detached(port: int, host: str, catalog: CatalogFile, take_file: bool) -> None:
    folder = installation.folder(port)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = folder / "up.log"
    try:
        # Here too, because the log is that of the one that runs.
        launch.check_port(host, port)
    except launch.LaunchError as error:
        fail(str(error))
    # -P: the current folder, which may hold a `serve` of the user's own, is not searched.
    command = [sys.executable, "-P", "-m", "serve.cli", "up", f"--port={port}", f"--host={host}"]
    if catalog is not None:
        command.append(f"--catalog={catalog.expanduser().absolute()}")
    if take_file:
        command.append("--take-file")
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        _follow(log, process, port)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        out.print("Stopped; nothing is left running.")


def _follow(log: Path, process: subprocess.Popen[bytes], port: int) -> None:
    """Repeat what the start says until it is ready, or has failed."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        while True:
            if line := lines.readline():
                typer.echo(line, nl=False)
                continue
            if (code := process.poll()) is not None:
                typer.echo(lines.read(), nl=False)
                raise typer.Exit(code)
            made = installation.find(port)
            if made is not None and made.ready and made.pid == process.pid:
                time.sleep(0.2)
                rest = lines.read().replace("Ctrl-C stops it.", "fusion down stops it.")
                typer.echo(rest, nl=False)
                return
            time.sleep(0.1)


def down(
    port: Port = None,
    address: Annotated[
        str | None, typer.Option(help="Take it off this Ray cluster again: its dashboard.")
    ] = None,
) -> None:
    """Stop the cluster that `fusion up` started on this machine, or leave one of others."""
    chosen = port or default_port()
    if address is not None:
        try:
            made_there = existing.reach(address, "127.0.0.1", chosen)
            ours, left = existing.end(made_there)
        except launch.LaunchError as error:
            fail(str(error))
        if not ours:
            fail(f"Nothing of fusion runs on the cluster at {made_there.dashboard}.")
        out.print(f"Taken off the cluster at {made_there.dashboard}: {', '.join(ours)}.")
        if left:
            out.print(f"Still finishing what was begun: {', '.join(left)}.")
        return
    made = installation.find(chosen)
    if made is None:
        fail(f"No fusion cluster was started here on port {chosen}.")
    if not launch.stop(made):
        fail("Some processes did not end; see: ps aux | grep ray")
    out.print(f"Stopped the cluster on port {chosen}.")


def status(
    port: Port = None,
    url: Url = None,
    as_json: Json = False,
    by_scaling: Annotated[
        bool, typer.Option("--scaling", help="Show what the scaling rule decided instead.")
    ] = False,
) -> None:
    """Show which parts are up."""
    if by_scaling:
        text = get(server_url(url, port), "/metrics").text
        found, why, where = scaling.decisions(text), scaling.causes(text), scaling.places(text)
        if as_json:
            more = {m: {"why": why.get(m, []), "places": where.get(m, {})} for m in found}
            print_json({model: values | more[model] for model, values in found.items()})
        elif found:
            out.print(scaling.table(found, why, where))
        else:
            out.print("No model is scaled by work: see 'scaling' in docs/catalog.md.")
        return
    response = get(server_url(url, port), "/healthz", also=503)
    data = data_of(response)
    if as_json:
        print_json(data)
    else:
        table = Table("part", "status", "replicas", box=None, pad_edge=False)
        for name, part in sorted(data.get("parts", {}).items()):
            table.add_row(name, part["status"], str(part["replicas"]))
        out.print(f"{data.get('status', 'unknown')}\n")
        out.print(table)
    if response.status_code != 200:
        raise typer.Exit(1)
