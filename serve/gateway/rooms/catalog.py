"""The catalog over HTTP: see it, change it, go back."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from pydantic import AfterValidator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from models import catalog_file
from models.catalog import Catalog
from models.errors import BadRequest, Conflict, NotFound
from serve.access.caller import caller
from serve.editions.changes import changes
from serve.editions.edition import Editions
from serve.editions.history import Head, History, Origin, Version
from serve.gateway import body


def _no_zero(text: str) -> str:
    if "\0" in text:  # which PostgreSQL takes in no text
        raise ValueError("it holds a zero character")
    return text


class CatalogBody(body.Body):
    """`catalog` is the whole of it, as YAML or JSON text; `after` is the version that it was
    made from."""

    catalog: str
    after: int
    origin: Origin = "apply"
    note: Annotated[str, AfterValidator(_no_zero)] = ""


class AliasBody(body.Body):
    target: str


class CatalogRoom:
    """For keys with the scope `admin`. `not_running` names hosted models of a catalog that do
    not run as it says."""

    def __init__(
        self,
        editions: Editions,
        history: History,
        not_running: Callable[[Catalog], Awaitable[list[str]]],
    ) -> None:
        self._editions = editions
        self._history = history
        self._not_running = not_running

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/catalog", self.show, methods=["GET"]),
            Route("/v1/catalog", self.replace, methods=["PUT"]),
            Route("/v1/catalog/history", self.history, methods=["GET"]),
            Route("/v1/aliases/{name:path}", self.set_alias, methods=["PUT"]),
            Route("/v1/aliases/{name:path}", self.remove_alias, methods=["DELETE"]),
        ]

    async def show(self, request: Request) -> Response:
        """GET /v1/catalog, or ?version=N of the history"""
        caller(request).require("admin")
        asked = request.query_params.get("version")
        if asked is None:
            found = await self._history.newest()
        elif asked.isdecimal() and len(asked) < 10:
            found = await self._history.version(int(asked))
        else:
            raise BadRequest("'version' is a whole number.", param="version")
        if found is None:
            raise NotFound(f"There is no version {asked} of the catalog.")
        problem = self._editions.problem
        return JSONResponse(
            {**_head(found), "problem": problem, "catalog": found.catalog.model_dump(mode="json")}
        )

    async def history(self, request: Request) -> Response:
        """GET /v1/catalog/history"""
        caller(request).require("admin")
        versions = await self._history.list()
        told = []
        for version, before in zip(versions, [*versions[1:], None], strict=True):
            made = []
            if isinstance(before, Version) and isinstance(version, Version):
                made = changes(before.catalog, version.catalog)
            told.append(_head(version) | {"changes": [str(change) for change in made]})
        return JSONResponse({"object": "list", "data": told})

    async def replace(self, request: Request) -> Response:
        """PUT /v1/catalog"""
        asked = await body.parse(request, CatalogBody, 8_000_000)
        caller(request).require("admin")
        newest = await self._newest()
        if newest.version != asked.after:
            raise Conflict(f"The catalog is at version {newest.version}, not {asked.after}.")
        catalog = _checked(asked.catalog)
        return await self._publish(request, newest, catalog, asked.origin, asked.note)

    async def set_alias(self, request: Request) -> Response:
        """PUT /v1/aliases/{name}"""
        asked = await body.parse(request, AliasBody)
        return await self._change_alias(request, asked.target)

    async def remove_alias(self, request: Request) -> Response:
        """DELETE /v1/aliases/{name}"""
        return await self._change_alias(request, None)

    async def _change_alias(self, request: Request, target: str | None) -> Response:
        caller(request).require("admin")
        name = request.path_params["name"]
        newest = await self._newest()
        aliases = dict(newest.catalog.aliases)
        if target is not None:
            aliases[name] = target
        elif aliases.pop(name, None) is None:
            raise NotFound(f"There is no alias '{name}'.")
        # Checked as a whole: what points to this alias must still lead somewhere.
        drafted = newest.catalog.model_copy(update={"aliases": aliases})
        catalog = _checked(drafted.model_dump_json())
        note = f"{name} = {target}" if target is not None else f"{name} removed"
        return await self._publish(request, newest, catalog, "alias", note)

    async def _publish(
        self, request: Request, newest: Version, catalog: Catalog, origin: Origin, note: str
    ) -> Response:
        try:
            self._editions.check(catalog)
        except ValueError as error:
            raise BadRequest(f"{error} Set it where the cluster was started.") from None
        if missing := await self._not_running(catalog):
            raise Conflict(
                f"Not running as this catalog says: {', '.join(missing)}. "
                "'fusion apply' starts them first."
            )
        made = changes(newest.catalog, catalog)
        version = newest.version
        if made:
            by = caller(request).key or ""
            version = await self._history.publish(
                catalog, origin, after=newest.version, by=by, note=note
            )
            await self._editions.refresh()
        return JSONResponse({"version": version, "changes": [str(change) for change in made]})

    async def _newest(self) -> Version:
        newest = await self._history.newest()
        assert newest is not None, "the start made one"
        return newest


def _checked(text: str) -> Catalog:
    """A catalog that is right as a whole. Raises BadRequest with every problem."""
    try:
        return catalog_file.parse(text, "catalog", os.environ)
    except catalog_file.CatalogError as error:
        raise BadRequest("\n".join(error.lines), param="catalog") from None


def _head(version: Head) -> dict[str, Any]:
    return {
        "version": version.version,
        "at": int(version.at),
        "origin": version.origin,
        "by": version.by,
        "note": version.note,
    }
