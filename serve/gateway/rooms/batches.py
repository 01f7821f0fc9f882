"""OpenAI's batches, with what ours can do beside them under the key `fusion`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from models.answerer import Clock
from models.errors import BadRequest, ModelNotFound, Unavailable
from models.prices import NANO_PER_USD, usd
from serve.access.caller import Caller, caller
from serve.dialects.paths import DIALECTS
from serve.editions.edition import Current
from serve.gateway import body
from serve.gateway.rooms.files import number, page
from serve.jobs import purse
from serve.jobs.batch import Batch, Spec, seconds
from serve.jobs.batches import Batches
from serve.jobs.export import record, results
from serve.jobs.files import Files
from serve.jobs.starter import Starter

_PAGE = 20


class _Ours(body.Body):
    """What this server adds to a batch."""

    #: Answers rows that name no model.
    model: str | None = None
    #: US dollars; the batch stops cleanly before it passes them.
    budget_usd: float | int | None = Field(None, gt=0, le=1_000_000)
    priority: Literal["low", "normal"] = "low"
    #: What a line that cannot be read does.
    bad_rows: Literal["report", "stop"] = "stop"


class _Kept(body.Body):
    """How long the output files are kept."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


class _New(body.Body):
    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None
    output_expires_after: _Kept | None = None
    fusion: _Ours = _Ours()


class _Again(body.Body):
    completion_window: str = "24h"
    budget_usd: float | int | None = Field(None, gt=0, le=1_000_000)


class BatchesRoom:
    """`starter` makes something work on a batch."""

    def __init__(
        self, batches: Batches, files: Files, starter: Starter, editions: Current, clock: Clock
    ) -> None:
        self._batches = batches
        self._files = files
        self._starter = starter
        self._editions = editions
        self._clock = clock

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/batches", self.list, methods=["GET"]),
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches/{id}", self.show, methods=["GET"]),
            Route("/v1/batches/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/v1/batches/{id}/resume", self.resume, methods=["POST"]),
            Route("/v1/batches/{id}/rows", self.rows, methods=["GET"]),
            Route("/v1/batches/{id}/logs", self.logs, methods=["GET"]),
        ]

    async def create(self, request: Request) -> Response:
        who = caller(request)
        who.require("use")
        asked = await body.parse(request, _New)
        self._check(asked, who)
        kept = asked.output_expires_after
        await self._files.get(who.project, asked.input_file_id)
        batch = await self._batches.create(
            who.project,
            Spec(
                input_file=asked.input_file_id,
                endpoint=asked.endpoint,
                window=asked.completion_window,
                model=asked.fusion.model,
                budget_nano_usd=_nano(asked.fusion.budget_usd),
                priority=asked.fusion.priority,
                bad_rows=asked.fusion.bad_rows,
                key=who.key,
                models=who.models,
                metadata=asked.metadata or {},
                output_kept_s=None if kept is None else kept.seconds,
            ),
        )
        try:
            return await self._begin(batch)
        except Unavailable:
            await self._batches.forget(batch.id)  # its caller knows no name to resume it by
            raise

    def _check(self, asked: _New, who: Caller) -> None:
        if asked.endpoint not in DIALECTS:
            raise BadRequest(f"'endpoint' is none of {', '.join(DIALECTS)}.", param="endpoint")
        seconds(asked.completion_window)
        model = asked.fusion.model
        if model is not None:
            who.may_ask([model])
            if self._editions.current.catalog.resolve(model) is None:
                raise ModelNotFound(
                    f"No model, alias or panel is called '{model}'. GET /v1/models lists them.",
                    param="fusion.model",
                )

    async def _begin(self, batch: Batch) -> Response:
        job = await self._starter.start(batch.id)
        await self._batches.started(batch.id, job)
        return self._shown(await self._batches.get(batch.project, batch.id))

    async def list(self, request: Request) -> Response:
        asked = request.query_params
        limit = number(asked.get("limit"), _PAGE, most=100)
        found, more = await self._batches.page(caller(request).project, asked.get("after"), limit)
        return JSONResponse(page([self._card(batch) for batch in found], more))

    async def show(self, request: Request) -> Response:
        return self._shown(await self._found(request))

    async def cancel(self, request: Request) -> Response:
        who = caller(request)
        who.require("use")
        return self._shown(await self._batches.cancel(who.project, request.path_params["id"]))

    async def resume(self, request: Request) -> Response:
        """Go on with a batch that ended early, or whose runner is gone."""
        who = caller(request)
        who.require("use")
        asked = await body.parse(request, _Again)
        found = await self._found(request)
        await self._files.get(who.project, found.spec.input_file)
        batch = await self._batches.reopen(
            who.project,
            found.id,
            _nano(asked.budget_usd),
            asked.completion_window,
        )
        return await self._begin(batch)

    async def rows(self, request: Request) -> Response:
        """One JSON line a row of the input, in the order of the input."""
        batch = await self._found(request)

        async def lines() -> AsyncIterator[bytes]:
            async for found in results(self._batches, batch):
                yield b"".join(
                    json.dumps(record(one), ensure_ascii=False).encode() + b"\n" for one in found
                )

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def logs(self, request: Request) -> Response:
        batch = await self._found(request)
        return PlainTextResponse(await self._starter.logs(batch.job) if batch.job else "")

    async def _found(self, request: Request) -> Batch:
        return await self._batches.get(caller(request).project, request.path_params["id"])

    def _shown(self, batch: Batch) -> Response:
        return JSONResponse(self._card(batch))

    def _card(self, batch: Batch) -> dict[str, Any]:
        return shown(batch) | {"fusion": self._ours(batch)}

    def _ours(self, batch: Batch) -> dict[str, Any]:
        now, catalog = self._clock.now(), self._editions.current.catalog
        tiers: dict[str, dict[str, int]] = {}
        for model, (took, gave) in batch.tokens.items():
            tier = catalog.models[model].tier if model in catalog.models else "gone"
            so_far = tiers.setdefault(tier, {"input": 0, "output": 0})
            so_far["input"] += took
            so_far["output"] += gave
        ended = batch.done + batch.failed
        began = batch.times.get("in_progress")
        left = None
        if began is not None and not batch.has_ended:
            left = purse.seconds_left(ended, batch.rows, now - began)
        return {
            "model": batch.spec.model,
            "priority": batch.spec.priority,
            "why": batch.why,
            #: Nobody works on it, though it has not ended: resume it.
            "interrupted": batch.is_silent(now),
            "running": batch.running,
            "reused": batch.reused,
            "tokens": tiers,
            "budget_usd": _dollars(batch.spec.budget_nano_usd),
            "spent_usd": usd(batch.nano_usd),
            "projected_usd": _dollars(purse.projected(batch.nano_usd, ended, batch.rows)),
            "seconds_left": left,
            "job": batch.job,
        }


def shown(batch: Batch) -> dict[str, Any]:
    """A batch in OpenAI's fields."""
    states = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling")
    times = {f"{name}_at": _whole(batch.times.get(name)) for name in (*states, "cancelled")}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.spec.endpoint,
        "errors": {"object": "list", "data": list(_errors(batch))} if batch.errors else None,
        "input_file_id": batch.spec.input_file,
        "completion_window": batch.spec.window,
        "status": batch.state,
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.expires_at),
        **times,
        "request_counts": {"total": batch.rows, "completed": batch.done, "failed": batch.failed},
        "metadata": dict(batch.spec.metadata),
    }


def _errors(batch: Batch) -> Iterator[dict[str, Any]]:
    for line, message in batch.errors:
        yield {"code": "invalid_line", "line": line or None, "message": message, "param": None}


def _whole(at: float | None) -> int | None:
    return None if at is None else int(at)


def _nano(dollars: float | None) -> int | None:
    return None if dollars is None else int(Decimal(str(dollars)) * NANO_PER_USD)


def _dollars(nano: int | None) -> str | None:
    return None if nano is None else usd(nano)
