"""What commands share: finding the catalog and the server, and speaking plainly."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console, ConsoleOptions

from cluster import installation
from cluster.errors import ClusterError
from cluster.profile import parse_profile
from models import yaml_lines
from models.catalog import Catalog
from models.catalog_file import CatalogError, load
from models.workforce.names import hosted

#: Columns of what is no terminal: a table in a file or a pipe is never cut.
_NO_EDGE = 10_000


class _Wide(Console):
    """A console that cuts tables to the width of a terminal, and to no width where it is none."""

    @property
    def options(self) -> ConsoleOptions:
        known = super().options
        return known if self.is_terminal else known.update_width(_NO_EDGE)


# An answer may say `1:100:1` and a model may be called `star`: those are no emoji.
out = _Wide(soft_wrap=True, highlight=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)

DEFAULT_PORT = 8000
CATALOG_VARIABLE = "FUSION_CATALOG"
URL_VARIABLE = "FUSION_URL"

Port = Annotated[
    int | None,
    typer.Option(
        "--port", "-p", min=1, max=65535, help="HTTP port. Default: the catalog's, else 8000."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print data as JSON.")]
Url = Annotated[
    str | None,
    typer.Option("--url", help="A server elsewhere, as http://host:port.", envvar=URL_VARIABLE),
]
CatalogFile = Annotated[
    Path | None,
    typer.Option(
        "--catalog",
        "-c",
        envvar=CATALOG_VARIABLE,
        help="Catalog file. Default: ./fusion.yaml, else the repository's own.",
    ),
]


def given(context: typer.Context, option: str) -> Any:
    """An option of this command, which may also stand before the command's name: `fusion usage
    -c FILE resolve ...` works on FILE and not silently on another store."""
    for place in (context, context.parent):
        source = place.get_parameter_source(option) if place is not None else None
        if place is not None and source is not None and source.name == "COMMANDLINE":
            return place.params[option]
    return context.params[option]


def fail(message: str, status: int = 1) -> NoReturn:
    """End with a sentence on standard error."""
    err.print("[red]error:[/] ", end="")
    err.print(message, markup=False)
    raise typer.Exit(status)


@contextmanager
def plainly() -> Iterator[None]:
    """Bad input ends with what is wrong, a line each, and status 2."""
    try:
        yield
    except ValueError as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), 2)


def read_catalog(path: Path | None) -> Catalog:
    """The catalog, or every problem of it on standard error and exit status 2."""
    path = catalog_path(path)
    try:
        known = load(path)
        for name, spec in hosted(known).items():
            if spec.scaling is not None:
                parse_profile(spec.scaling.profile(), name)
                for node, profile in spec.scaling.other_profiles().items():
                    parse_profile(profile, f"{name} on {node}")
    except CatalogError as error:
        for line in error.lines:
            err.print(line, markup=False)
        raise typer.Exit(2) from None
    except ClusterError as error:
        fail(f"{path}: {error}", 2)
    return known


def catalog_path(path: Path | None) -> Path:
    """This file, else the variable's, else the folder's, else the repository's own."""
    path = path or (Path(named) if (named := os.environ.get(CATALOG_VARIABLE)) else None)
    if path is not None:
        return path.expanduser().absolute()
    here = Path("fusion.yaml")
    return here.absolute() if here.is_file() else Path(__file__).parents[2] / "fusion.yaml"


def default_port() -> int:
    """The port of the catalog that `up` would take, or 8000 where it does not say."""
    try:
        data = yaml_lines.read(catalog_path(None).read_text(encoding="utf-8")).data
        return int(data["server"]["port"])
    except (OSError, KeyError, TypeError, ValueError):
        return DEFAULT_PORT


def writable(path: Path | None) -> None:
    """End now where this file could not be written later, when all the work is done."""
    if path is None:
        return
    if path.is_dir():
        fail(f"{path} is a folder: name a file.", 2)
    if not path.absolute().parent.is_dir():
        fail(f"{path}: there is no folder {path.absolute().parent}", 2)
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        fail(f"{path} cannot be written.", 2)


def store_url(catalog: Catalog, port: int) -> str:
    """Where the installation on this port keeps what outlives a process."""
    return catalog.server.store or f"sqlite:///{installation.data_folder(port)}/fusion.db"


def print_json(data: Any) -> None:
    typer.echo(json.dumps(data, ensure_ascii=False, indent=2))
