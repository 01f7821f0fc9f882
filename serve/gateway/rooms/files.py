"""OpenAI's files, as far as batches need them."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from models.errors import BadRequest, StoreUnavailable
from serve.access.caller import caller
from serve.gateway.body import pieces
from serve.jobs.files import MAX_BYTES, PART, File, Files

#: What a form says beside its file.
_FORM_BYTES = 100_000
_PURPOSES = ("batch", "batch_output", "user_data", "assistants", "fine-tune", "evals", "vision")
_PAGE = 10_000


class FilesRoom:
    def __init__(self, files: Files) -> None:
        self._files = files

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/files", self.list, methods=["GET"]),
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files/{id}", self.show, methods=["GET"]),
            Route("/v1/files/{id}", self.delete, methods=["DELETE"]),
            Route("/v1/files/{id}/content", self.content, methods=["GET"]),
        ]

    async def upload(self, request: Request) -> Response:
        who = caller(request)
        who.require("use")
        await self._files.sweep()
        form = await _form(request)
        try:
            sent, purpose = form.get("file"), form.get("purpose")
            if not isinstance(sent, UploadFile):
                raise BadRequest("The form has no 'file'.", param="file")
            if purpose not in _PURPOSES[2:] and purpose != "batch":
                raise BadRequest("'purpose' is not one that is known: batch.", param="purpose")
            draft = self._files.draft()
            try:
                while piece := await sent.read(PART):
                    await draft.write(piece)
                made = await self._files.keep(
                    draft,
                    who.project,
                    (sent.filename or "upload")[:255],
                    str(purpose),
                    self._expiry(form),
                )
            except BaseException:
                await self._files.discard(draft)
                raise
        finally:
            await form.close()
        return JSONResponse(shown(made))

    async def list(self, request: Request) -> Response:
        asked = request.query_params
        limit = number(asked.get("limit"), _PAGE, most=_PAGE)
        newest = asked.get("order", "desc") != "asc"
        found, more = await self._files.page(
            caller(request).project,
            purpose=asked.get("purpose"),
            after=asked.get("after"),
            limit=limit,
            newest=newest,
        )
        return JSONResponse(page([shown(file) for file in found], more))

    async def show(self, request: Request) -> Response:
        return JSONResponse(shown(await self._found(request)))

    async def delete(self, request: Request) -> Response:
        file = request.path_params["id"]
        who = caller(request)
        who.require("use")
        await self._files.delete(who.project, file)
        return JSONResponse({"id": file, "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        file = await self._found(request)
        return StreamingResponse(
            self._files.content(file.id),
            media_type="application/octet-stream",
            headers={"content-length": str(file.bytes)},
        )

    async def _found(self, request: Request) -> File:
        return await self._files.get(caller(request).project, request.path_params["id"])

    def _expiry(self, form: FormData) -> float | None:
        after = form.get("expires_after[seconds]")
        if after is None:
            return None
        good = isinstance(after, str) and after.isdecimal() and len(after) <= 9
        if not good or not 3600 <= int(str(after)) <= 2592000:
            raise BadRequest(
                "'expires_after' is 3600 to 2592000 seconds.", param="expires_after.seconds"
            )
        return self._files.now() + int(str(after))


async def _form(request: Request) -> FormData:
    """The form, its file in a temporary one. Raises what `pieces` raises, and StoreUnavailable
    where this machine's disk takes no more."""
    if "multipart/form-data" not in request.headers.get("content-type", ""):
        raise BadRequest("Send the file as multipart/form-data.")
    try:
        sent = pieces(request, MAX_BYTES + _FORM_BYTES)
        return await MultiPartParser(request.headers, sent, max_files=1).parse()
    except (MultiPartException, KeyError) as error:
        raise BadRequest(f"The form cannot be read: {error}.") from None
    except OSError as error:
        raise StoreUnavailable(f"The server cannot take the file in: {error.strerror}.") from None


def shown(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }


def page(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    """A list as OpenAI's clients go through it."""
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {
        "object": "list",
        "data": data,
        "has_more": more,
        "first_id": None,
        "last_id": None,
    } | ends


def number(text: str | None, otherwise: int, most: int) -> int:
    """A `limit` of the query."""
    if text is None:
        return otherwise
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= most:
        raise BadRequest(f"'limit' is a whole number from 1 to {most}.", param="limit")
    return int(text)
