"""`fusion up`, `down`, `status`, `models`: the server and what it serves."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.table import Table

from cluster import installation, launch
from models import weights
from models.catalog import Catalog, FakeModelSpec, VllmModel
from serve.cli.common import (
    CatalogFile,
    Json,
    Port,
    Url,
    default_port,
    fail,
    get,
    out,
    print_json,
    read_catalog,
    server_url,
    store_url,
)

APPLICATION = "fusion"
BUILDER = "serve.app:build"
#: What the application's gateways, judge and router each reserve (see `serve.app`).
LIGHT_CPUS = 0.1


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(models)


def up(
    catalog: CatalogFile = None,
    port: Port = None,
    host: Annotated[
        str | None, typer.Option(help="Address to serve on. Default: the catalog's, 127.0.0.1.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when ready; stop with: fusion down")
    ] = False,
) -> None:
    """Start the cluster on this machine and serve until Ctrl-C."""
    known = read_catalog(catalog)
    chosen_port, chosen_host = port or known.server.port, host or known.server.host
    _refuse_open_door(chosen_host)
    if detach:
        _detached(chosen_port, chosen_host, catalog)
        return
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()

    def report(line: str) -> None:
        out.print(f"[dim]{time.monotonic() - began:6.1f} s[/]  {line}")

    try:
        # The port first: nobody should wait for weights to learn that it is taken.
        launch.check_port(chosen_host, chosen_port)
        _prepare_weights(known, report)
        with launch.head(chosen_host, chosen_port, _cpus(known), report) as made:
            report("Starting models and gateway")
            args = {
                "catalog": known.model_dump(mode="json"),
                "store": store_url(known, chosen_port),
            }
            launch.deploy(made, APPLICATION, BUILDER, args)
            launch.wait_until_ready(made, APPLICATION, report)
            made.now_ready().save()
            report(f"Ready at {made.url}/v1")
            _print_first_request(made.url, known)
            _serve(made)
    except (launch.LaunchError, weights.WeightsError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        out.print("Stopped; nothing is left running.")


def _interrupt(*_: int | FrameType | None) -> None:
    raise KeyboardInterrupt


def _refuse_open_door(host: str) -> None:
    if host not in ("127.0.0.1", "localhost"):
        fail(
            f"Without API keys the server answers this machine only, so not on {host}. "
            "Put a proxy that authenticates in front of it.",
            2,
        )


def _cpus(catalog: Catalog) -> float:
    """Logical CPUs for Ray to hand out: at least what the catalog's replicas reserve.

    They are places, not cores: a small machine runs the default catalog, only slower.
    """
    hosted = [s for s in catalog.models.values() if isinstance(s, VllmModel | FakeModelSpec)]
    reserved = sum(spec.cpus * spec.replicas.max for spec in hosted)
    return math.ceil(reserved + LIGHT_CPUS * (catalog.server.gateways + 2) + 1)


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


def _print_first_request(url: str, catalog: Catalog) -> None:
    model = "fusion/default" if "default" in catalog.panels else next(iter(catalog.models))
    out.print("\nTry it:\n")
    out.print(
        f"  curl {url}/v1/chat/completions -H 'content-type: application/json' -d "
        f'\'{{"model": "{model}", "messages": '
        '[{"role": "user", "content": "Why is the sky blue?"}]}\'',
        markup=False,
    )
    out.print("\nCtrl-C stops it.")


def _serve(made: installation.Installation) -> None:
    """Until somebody stops it, or the cluster ends by itself."""
    while launch.running(made):
        time.sleep(1)
    raise launch.LaunchError(
        f"The cluster ended by itself; its logs: {made.temp}/session_latest/logs"
    )


def _detached(port: int, host: str, catalog: CatalogFile) -> None:
    folder = installation.folder(port)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = folder / "up.log"
    # -P: the current folder, which may hold a `serve` of the user's own, is not searched.
    command = [sys.executable, "-P", "-m", "serve.cli", "up", f"--port={port}", f"--host={host}"]
    if catalog is not None:
        command.append(f"--catalog={catalog.expanduser().absolute()}")
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


def down(port: Port = None) -> None:
    """Stop the cluster that `fusion up` started on this machine."""
    chosen = port or default_port()
    made = installation.find(chosen)
    if made is None:
        fail(f"No fusion cluster was started here on port {chosen}.")
    if not launch.stop(made):
        fail("Some processes did not end; see: ps aux | grep ray")
    out.print(f"Stopped the cluster on port {chosen}.")


def status(port: Port = None, url: Url = None, as_json: Json = False) -> None:
    """Show which parts are up."""
    response = get(server_url(url, port), "/healthz")
    data = response.json()
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


def models(port: Port = None, url: Url = None, as_json: Json = False) -> None:
    """List every name that a request may use."""
    data: dict[str, Any] = get(server_url(url, port), "/v1/models").json()
    if as_json:
        print_json(data)
        return
    table = Table("name", "kind", "answers", "tier", "context", box=None, pad_edge=False)
    for card in data["data"]:
        table.add_row(
            card["id"],
            card["kind"],
            card.get("model", ""),
            card.get("tier", ""),
            str(card.get("context", "")),
        )
    out.print(table)
