"""Reads the bodies of requests that are ours alone, strictly."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, Request

from models.errors import BadRequest, Cancelled, TooLarge

#: Largest body where no route says otherwise, in bytes.
MOST = 1_000_000


class Body(BaseModel):
    """What a route takes: strict, frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Asked = TypeVar("Asked", bound=BaseModel)


async def read(request: Request, most: int = MOST) -> bytes:
    """The whole body. Raises TooLarge past `most` bytes, Cancelled when the client goes away."""
    taken = bytearray()
    try:
        async for piece in request.stream():
            taken += piece
            if len(taken) > most:
                raise TooLarge(f"The body is larger than {most:,} bytes.")
    except ClientDisconnect:
        raise Cancelled("The client went away.") from None
    return bytes(taken)


async def parse(request: Request, into: type[Asked], most: int = MOST) -> Asked:
    """The body as this record. Raises BadRequest that names the field. Nothing sent is `{}`."""
    raw = await read(request, most)
    try:
        return into.model_validate_json(raw or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or None
        if first["type"] == "json_invalid":
            raise BadRequest(f"The body is not valid JSON: {first['msg']}.") from None
        raise BadRequest(f"'{field}': {first['msg']}.", param=field) from None
