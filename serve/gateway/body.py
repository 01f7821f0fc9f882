"""Reads the body of a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from models.errors import Cancelled, DeadlineExceeded, TooLarge, Unsupported
from serve.dialects import shape
from serve.dialects.shape import Shape as Body

__all__ = ["MOST", "Body", "parse", "pieces", "read"]

#: Largest body where no route says otherwise, in bytes.
MOST = 1_000_000
#: How long a body may take to come where no route says otherwise, in seconds.
WITHIN_S = 600.0

Asked = TypeVar("Asked", bound=Body)


async def pieces(request: Request, most: int = MOST, mend: str = "") -> AsyncGenerator[bytes, None]:
    """The body as it comes. Raises TooLarge past `most` bytes, before any is read where the
    request says how many there are; Unsupported where it is packed; Cancelled when the client
    goes away."""
    packed = request.headers.get("content-encoding", "identity")
    if packed.lower() != "identity":
        raise Unsupported(
            f"Content-Encoding '{packed[:40]}' is not read here. Send the body as it is.",
            param="content-encoding",
        )
    too_large = TooLarge(f"The body is larger than {most / 1e6:g} MB{mend}.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise too_large
    taken = 0
    try:
        async for piece in request.stream():
            taken += len(piece)
            if taken > most:
                raise too_large
            yield piece
    except ClientDisconnect:
        raise Cancelled("The client went away.") from None


async def read(
    request: Request, most: int = MOST, mend: str = "", within_s: float = WITHIN_S
) -> bytes:
    """The whole body. Raises what `pieces` raises, and DeadlineExceeded where it only drips: each
    request that is being read holds a place."""
    try:
        async with asyncio.timeout(within_s):
            return b"".join([piece async for piece in pieces(request, most, mend)])
    except TimeoutError:
        raise DeadlineExceeded(f"The body did not come within {within_s:g} s.") from None


async def parse(request: Request, into: type[Asked], most: int = MOST) -> Asked:
    """The body as this record. Raises BadRequest that names the field. Nothing sent is `{}`."""
    return shape.read(await read(request, most) or b"{}", into)
