"""`fusion check`: is this catalog right?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serve.cli.common import Json, catalog_path, out, print_json, read_catalog


def register(app: typer.Typer) -> None:
    app.command()(check)


def check(
    file: Annotated[Path | None, typer.Argument(help="Catalog file.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Check a catalog and do nothing else. Exit status 2 with one line for each problem."""
    catalog = read_catalog(file)
    if as_json:
        print_json(catalog.model_dump(mode="json"))
        return
    counts = f"{len(catalog.models)} models, {len(catalog.aliases)} aliases"
    out.print(f"{catalog_path(file)}: good ({counts}, {len(catalog.panels)} panels)")
