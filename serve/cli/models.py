"""`fusion models`: the names that a request may use, and what a model can really do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from models.spec import ApiModel, OpenAIModel, PythonModel
from models.workforce.names import deployment_name
from serve.cli.common import (
    CatalogFile,
    Json,
    Port,
    Url,
    fail,
    given,
    out,
    print_json,
    read_catalog,
)
from serve.cli.reach import credentials, data_of, get, server_url

if TYPE_CHECKING:
    from models.answerer import Answerer
    from models.probe import Found

app = typer.Typer(name="models", invoke_without_command=True)
#: The key that is shown to a fusion server, under a name that no user's variable has.
_KEY = "FUSION_CLI_KEY"


def register(root: typer.Typer) -> None:
    root.add_typer(app)


@app.callback()
def models(
    context: typer.Context, port: Port = None, url: Url = None, as_json: Json = False
) -> None:
    """List every name that a request may use: price, context, abilities, health."""
    if context.invoked_subcommand is not None:
        return
    base = server_url(url, port)
    listed: dict[str, Any] = data_of(get(base, "/v1/models"))
    health: dict[str, Any] = data_of(get(base, "/healthz", also=503))
    for card in listed["data"]:
        card["health"] = _health(card.get("model"), health)
    if as_json:
        print_json(listed)
        return
    heads = ("name", "kind", "answers", "tier", "context", "$/M in", "$/M out", "can", "health")
    table = Table(*heads, box=None, pad_edge=False)
    for card in listed["data"]:
        price = card.get("price") or {}
        table.add_row(
            card["id"],
            card["kind"],
            card.get("model", ""),
            card.get("tier", ""),
            str(card.get("context", "")),
            str(price.get("input", "")),
            str(price.get("output", "")),
            ", ".join(card.get("abilities", ())),
            card["health"],
        )
    out.print(table)


def _health(model: str | None, health: Mapping[str, Any]) -> str:
    """How this model stands, as the health page tells it."""
    if model is None:
        return ""
    if standing := health.get("flagships", {}).get(model):
        return str(standing["status"])
    part = health.get("parts", {}).get(deployment_name(model))
    return str(part["status"]) if part else "unknown"


@app.command()
def test(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A model, an alias, or a fusion.")],
    port: Port = None,
    url: Url = None,
    direct: Annotated[
        bool,
        typer.Option("--direct", help="Ask a flagship's provider from here, without a server."),
    ] = False,
    catalog: CatalogFile = None,
    as_json: Json = False,
) -> None:
    """Try what a model can do: one real round trip each, plain, streamed, tools, JSON.

    It costs a few hundred tokens. Exit status 1 when something does not work.
    """
    if direct:
        found = asyncio.run(_direct(name, catalog))
    else:
        where = server_url(given(context, "url"), given(context, "port"))
        get(where, "/v1/models")  # whether there is a server, and the key is good
        found = asyncio.run(_served(name, where))
    as_json = given(context, "as_json")
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        table = Table("ability", "works", "seconds", "what came", box=None, pad_edge=False)
        for each in found:
            works = "[green]yes[/]" if each.works else "[red]no[/]"
            table.add_row(each.ability, works, f"{each.seconds:.2f}", each.detail[:160])
        out.print(table)
    if not all(each.works for each in found):
        raise typer.Exit(1)


async def _served(name: str, base: str) -> list[Found]:
    """Through the whole server, as a client would ask."""
    shown = credentials(base).get("authorization", "").removeprefix("Bearer ")
    spec = OpenAIModel(
        engine="openai",
        base_url=f"{base}/v1",
        upstream=name,
        api_key_env=_KEY if shown else None,
        timeout_s=300,
    )
    from models.flagship.answerer import Flagship
    from models.flagship.client import new_connections
    from models.probe import probe

    async with new_connections() as connections:
        return await probe(Flagship(name, spec, connections, environ={_KEY: shown}), name)


async def _direct(name: str, file: CatalogFile) -> list[Found]:
    from models.flagship.answerer import Flagship
    from models.flagship.client import new_connections
    from models.flagship.custom import Custom
    from models.flagship.key import MissingKey
    from models.probe import probe
    from models.wrappers.repair import Repair, habits_of

    known = read_catalog(file)
    target = known.resolve(name)
    spec = known.models.get(target.name) if target is not None else None
    if target is None or not isinstance(spec, ApiModel | PythonModel):
        fail(f"'{name}' is no flagship of the catalog: without a server only those can be asked.")
    async with new_connections() as connections:
        try:
            model: Answerer = (
                Custom(target.name, spec)
                if isinstance(spec, PythonModel)
                else Flagship(target.name, spec, connections, environ=os.environ)
            )
        except MissingKey as error:
            fail(str(error))
        return await probe(Repair(model, target.name, habits_of(target.name, spec)), target.name)
