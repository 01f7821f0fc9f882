"""The router over HTTP: explain a choice, judge an answer, look after what was learned."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any, Literal, Protocol

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from models.errors import BadRequest, Unsupported
from models.messages import Request, RouteOptions, user
from router.live import Plan, Question
from router.objective import Option
from serve.access.caller import caller
from serve.auto.notebook import Notebook
from serve.auto.question import question
from serve.dialects import shape
from serve.dialects.chat import request as chat
from serve.editions.edition import Current
from serve.gateway import body, knob

#: Largest state that may be imported, in bytes.
_STATE = 64_000_000


class Mind(Protocol):
    """The router, wherever it runs."""

    async def decide(self, question: Question) -> Plan: ...

    async def status(self) -> dict[str, Any]: ...

    async def state(self) -> dict[str, Any]: ...

    async def replace(self, state: dict[str, Any] | None) -> None: ...


class Prompt(body.Body):
    """A dry run for a prompt alone; a whole chat request may stand in its place."""

    prompt: str
    quality: float | None = Field(None, ge=0, le=1)
    max_usd: float | None = Field(None, gt=0, le=1000)
    flagship_share: float | None = Field(None, ge=0, le=1)
    kind: str | None = None


class Feedback(body.Body):
    """A caller's word on an answer: a score from 0 to 1, or a thumb."""

    id: str = Field(min_length=1, max_length=200)
    score: float | None = Field(None, ge=0, le=1)
    thumb: Literal["up", "down"] | None = None


class RouterRoom:
    def __init__(self, editions: Current, mind: Mind, notebook: Notebook) -> None:
        self._editions = editions
        self._mind = mind
        self._notebook = notebook

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/route", self.explain, methods=["POST"]),
            Route("/v1/feedback", self.judge, methods=["POST"]),
            Route("/v1/router", self.show, methods=["GET"]),
            Route("/v1/router/state", self.export, methods=["GET"]),
            Route("/v1/router/state", self.load, methods=["PUT"]),
            Route("/v1/router/state", self.reset, methods=["DELETE"]),
        ]

    async def explain(self, http: HttpRequest) -> Response:
        """POST /v1/route: what `fusion/auto` would choose, without spending anything."""
        caller(http).require("use")
        catalog = self._editions.current.catalog
        raw = await body.read(http, int(catalog.server.max_body_mb * 1_000_000))
        asked = question(_request(raw), catalog)
        if not asked.candidates:
            raise Unsupported("No model of the catalog takes this request's tools or images.")
        return JSONResponse(explained(await self._mind.decide(replace(asked, explore=0.0)), asked))

    async def judge(self, http: HttpRequest) -> Response:
        """POST /v1/feedback"""
        who = caller(http)
        who.require("use")
        asked = await body.parse(http, Feedback)
        if (asked.score is None) == (asked.thumb is None):
            raise BadRequest("Say either 'score' or 'thumb'.", param="score")
        score = asked.score if asked.score is not None else float(asked.thumb == "up")
        found = await self._notebook.feedback(who.project, asked.id, score)
        return JSONResponse(
            {"object": "feedback", "id": asked.id, "model": found.last, "score": score}
        )

    async def show(self, http: HttpRequest) -> Response:
        """GET /v1/router"""
        caller(http).require("admin")
        return JSONResponse(await self._mind.status())

    async def export(self, http: HttpRequest) -> Response:
        """GET /v1/router/state"""
        caller(http).require("admin")
        return JSONResponse(await self._mind.state())

    async def load(self, http: HttpRequest) -> Response:
        """PUT /v1/router/state: all replicas go on from this state."""
        caller(http).require("admin")
        try:
            state = json.loads(await body.read(http, _STATE))
        except (ValueError, RecursionError):
            raise BadRequest("The body is not valid JSON.") from None
        if not isinstance(state, dict):
            raise BadRequest("The body is not what GET /v1/router/state gave.")
        await self._mind.replace(state)
        return JSONResponse({"object": "router.state", "imported": True})

    async def reset(self, http: HttpRequest) -> Response:
        """DELETE /v1/router/state: all replicas forget what they learned on line."""
        caller(http).require("admin")
        await self._mind.replace(None)
        return JSONResponse({"object": "router.state", "reset": True})


def _request(raw: bytes) -> Request:
    try:
        data = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        raise BadRequest("The body is not valid JSON.") from None
    if isinstance(data, dict) and "messages" in data:
        whole = json.dumps({"model": "fusion/auto", **data}).encode()
        given = knob.turned(chat.parse(whole), {})
        route = given.request.route or RouteOptions()
        return replace(given.request, route=replace(route, max_usd=given.extension.cost_cap_usd))
    asked = shape.read(raw or b"{}", Prompt)
    route = RouteOptions(asked.quality, asked.max_usd, asked.flagship_share, asked.kind)
    return Request("fusion/auto", (user(asked.prompt),), route=route)


def explained(plan: Plan, asked: Question) -> dict[str, Any]:
    """A plan as data: the choice, why, and everything else that could have been chosen."""
    decision = plan.decision
    candidates = []
    for single in decision.singles:
        (name,) = single.models
        candidates.append(
            {
                "model": name,
                "known": plan.known[name],
                "flagship": name in asked.menu.flagships,
                **_figures(single),
                "by_weights": round(plan.expected[name], 4),
            }
        )
    return {
        "object": "route",
        **_option(decision.choice),
        "why": decision.reason,
        "far": decision.far,
        "gain": round(decision.gain, 4),
        "objective": asdict(asked.objective),
        "candidates": candidates,
        "options": [_option(option) for option in decision.options],
    }


def _option(option: Option) -> dict[str, Any]:
    named = {"panel": option.panel} if option.panel else {}
    return {"kind": option.kind, "models": list(option.models), **named, **_figures(option)}


def _figures(option: Option) -> dict[str, Any]:
    low, high = option.interval
    return {
        "quality": round(option.quality, 4),
        "interval": [round(low, 4), round(high, 4)],
        "cost_usd": round(option.cost, 9) if option.priced else None,
        "most_usd": round(option.most, 9) if option.priced else None,
    }
