"""Reads the body of a request."""

from __future__ import annotations

from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from models.errors import Cancelled, TooLarge
from serve.dialects import shape
from serve.dialects.shape import Shape as Body

__all__ = ["MOST", "Body", "parse", "read"]

#: Largest body where no route says otherwise, in bytes.
MOST = 1_000_000

Asked = TypeVar("Asked", bound=Body)


async def read(request: Request, most: int = MOST, mend: str = "") -> bytes:
    """The whole body. Raises TooLarge past `most` bytes, Cancelled when the client goes away."""
    taken = bytearray()
    try:
        async for piece in request.stream():
            taken += piece
            if len(taken) > most:
                raise TooLarge(f"The body is larger than {most / 1e6:g} MB{mend}.")
    except ClientDisconnect:
        raise Cancelled("The client went away.") from None
    return bytes(taken)


async def parse(request: Request, into: type[Asked], most: int = MOST) -> Asked:
    """The body as this record. Raises BadRequest that names the field. Nothing sent is `{}`."""
    return shape.read(await read(request, most) or b"{}", into)
