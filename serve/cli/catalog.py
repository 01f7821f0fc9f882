"""`fusion check`: is this catalog right?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from models.catalog import Catalog
from serve.applications import applications
from serve.cli.common import (
    CatalogFile,
    Json,
    catalog_path,
    fail,
    out,
    plainly,
    print_json,
    read_catalog,
)
from serve.settings import Settings


def register(app: typer.Typer) -> None:
    app.command()(check)


def check(
    file: Annotated[Path | None, typer.Argument(help="Catalog file.", show_default=False)] = None,
    catalog_file: CatalogFile = None,
    as_json: Json = False,
    serve_config: Annotated[
        bool, typer.Option("--serve-config", help="Print it as a Ray Serve config, in YAML.")
    ] = False,
) -> None:
    """Check a catalog and do nothing else. Exit status 2 with one line for each problem."""
    from serve.control.policy.catalog import rules

    file = file or catalog_file
    catalog = read_catalog(file)
    with plainly():
        rules(catalog.policies)  # those of one's own are functions that must be there
    if serve_config:
        typer.echo(yaml.safe_dump(config(catalog), sort_keys=False, allow_unicode=True), nl=False)
        return
    if as_json:
        print_json(catalog.model_dump(mode="json"))
        return
    counts = f"{len(catalog.models)} models, {len(catalog.aliases)} aliases"
    out.print(f"{catalog_path(file)}: good ({counts}, {len(catalog.panels)} panels)")


def config(catalog: Catalog) -> dict[str, Any]:
    """What `serve deploy` takes, or a RayService of KubeRay as its `serveConfigV2`."""
    try:
        settings = Settings.of({"catalog": catalog.model_dump(mode="json")})
    except ValueError as error:
        fail(str(error), 2)
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": catalog.server.host, "port": catalog.server.port},
        "applications": applications(settings, catalog),
    }
