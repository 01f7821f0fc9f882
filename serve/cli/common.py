"""What commands share: finding the catalog and the server, and speaking plainly."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console, ConsoleOptions
from rich.markup import escape

from cluster import installation
from models import yaml_lines
from models.catalog import Catalog
from models.catalog_file import CatalogError, load
from serve.access import secret
from serve.access.keys import operator_key
from serve.access.secret import NoSecret
from serve.settings import is_loopback

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
#: Where commands find the key that they show to the server.
KEY_VARIABLE = "FUSION_API_KEY"

Port = Annotated[
    int | None,
    typer.Option("--port", "-p", help="HTTP port. Default: the catalog's, else 8000."),
]
Json = Annotated[bool, typer.Option("--json", help="Print data as JSON.")]
Url = Annotated[
    str | None,
    typer.Option("--url", help="A server elsewhere, as http://host:port.", envvar="FUSION_URL"),
]
CatalogFile = Annotated[
    Path | None,
    typer.Option(
        "--catalog",
        "-c",
        envvar="FUSION_CATALOG",
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
    err.print(f"[red]error:[/] {message}", markup=True)
    raise typer.Exit(status)


@contextmanager
def plainly() -> Iterator[None]:
    """Bad input ends with what is wrong, a line each, and status 2."""
    try:
        yield
    except ValueError as error:
        fail(escape(str(error)), 2)
    except OSError as error:
        fail(escape(f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")), 2)


def read_catalog(path: Path | None) -> Catalog:
    """The catalog, or every problem of it on standard error and exit status 2."""
    path = catalog_path(path)
    try:
        return load(path)
    except CatalogError as error:
        for line in error.lines:
            err.print(line, markup=False)
        raise typer.Exit(2) from None


def catalog_path(path: Path | None) -> Path:
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


def store_url(catalog: Catalog, port: int) -> str:
    """Where the installation on this port keeps what outlives a process."""
    return catalog.server.store or f"sqlite:///{installation.data_folder(port)}/fusion.db"


def server_url(url: str | None, port: int | None) -> str:
    """The server that a command talks to."""
    if url:
        return url.rstrip("/")
    chosen = port or default_port()
    made = installation.find(chosen)
    return made.url if made else f"http://127.0.0.1:{chosen}"


def get(base: str, path: str) -> httpx.Response:
    """GET, or a sentence that says how to start the server."""
    try:
        return httpx.get(base + path, timeout=10, headers=credentials(base))
    except httpx.HTTPError as error:
        fail(f"No fusion server answers at {base} ({type(error).__name__}). Start it: fusion up")


def save(base: str, path: str) -> None:
    """Pass what the server sends on to standard output, however long it is."""
    try:
        with httpx.stream("GET", base + path, timeout=60, headers=credentials(base)) as answer:
            if not answer.is_success:
                answer.read()
                _refused(answer)
            for piece in answer.iter_bytes():
                sys.stdout.buffer.write(piece)
    except httpx.HTTPError as error:
        fail(f"No fusion server answers at {base} ({type(error).__name__}). Start it: fusion up")
    sys.stdout.buffer.flush()


def ask(
    base: str,
    method: str,
    path: str,
    body: Any = None,
    timeout_s: float = 60.0,
    said: Mapping[str, str] | None = None,
) -> Any:
    """The JSON of the answer, or what the server said was wrong."""
    try:
        response = httpx.request(
            method,
            base + path,
            json=body,
            timeout=timeout_s,
            headers={**credentials(base), **(said or {})},
        )
    except httpx.HTTPError as error:
        fail(f"No fusion server answers at {base} ({type(error).__name__}). Start it: fusion up")
    if not response.is_success:
        _refused(response)
    return response.json() if response.content else None


def _refused(response: httpx.Response) -> NoReturn:
    status = 2 if response.status_code == 400 else 1
    fail(f"{escape(said_wrong(response))} (HTTP {response.status_code})", status)


def said_wrong(response: httpx.Response) -> str:
    """What the server said was wrong."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:500]


def credentials(base: str) -> dict[str, str]:
    """The key to show to this server: the user's, or the operator's where this user runs it."""
    given = os.environ.get(KEY_VARIABLE)
    address = httpx.URL(base)
    if not given and is_loopback(address.host) and address.port is not None:
        folder = installation.data_folder(address.port)
        if (folder / "secret").is_file():
            with suppress(OSError, NoSecret):
                given = operator_key(secret.read(folder))
    return {"authorization": f"Bearer {given}"} if given else {}


def print_json(data: Any) -> None:
    typer.echo(json.dumps(data, ensure_ascii=False, indent=2))
