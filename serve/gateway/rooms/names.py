"""The names that a request may say: `GET /v1/models`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from models.catalog import Catalog
from models.errors import ModelNotFound
from models.spec import ModelSpec
from serve.editions.edition import Current


@dataclass(frozen=True, slots=True)
class Names:
    editions: Current

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/models", self.every),
            Route("/v1/models/{name:path}", self.one),
        ]

    async def every(self, _: Request) -> Response:
        """GET /v1/models"""
        catalog = self.editions.current.catalog
        listed = [_card(catalog, name, target.kind) for name, target in catalog.names()]
        return JSONResponse({"object": "list", "data": listed})

    async def one(self, http: Request) -> Response:
        """GET /v1/models/{name}"""
        catalog, name = self.editions.current.catalog, http.path_params["name"]
        for known, target in catalog.names():
            if known == name:
                return JSONResponse(_card(catalog, name, target.kind))
        raise ModelNotFound(
            f"No model is called '{name}'. GET /v1/models lists them.", param="model"
        )


def _card(catalog: Catalog, name: str, kind: str) -> dict[str, Any]:
    card = {"id": name, "object": "model", "created": 0, "owned_by": "fusion", "kind": kind}
    target = catalog.resolve(name)
    if target is not None and target.kind == "model":
        spec = catalog.models[target.name]
        card |= {
            "kind": "model" if target.name == name else "alias",
            "model": target.name,
            "tier": spec.tier,
            "context": spec.context,
            "max_output": spec.max_output,
            "price": None if spec.price is None else spec.price.model_dump(mode="json"),
            "abilities": _abilities(spec),
        }
    elif target is not None and name in catalog.aliases:
        card |= {"kind": "alias", "model": catalog.aliases[name]}
    if target is not None and target.kind == "panel":
        card |= {"context": catalog.window_of(target.name)}
    return card


def _abilities(spec: ModelSpec) -> list[str]:
    """What it can do, and where it can only do it by being told in words."""
    able = {
        "tools": spec.tools and spec.tool_calls == "native",
        "tools in words": spec.tools and spec.tool_calls == "text",
        "images": spec.images,
        "JSON": spec.structured == "native",
        "JSON in words": spec.structured == "words",
    }
    return [ability for ability, can in able.items() if can]
