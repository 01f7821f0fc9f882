"""HTTP as every flagship dialect needs it: whole JSON answers and server-sent events.

A model makes one `Transport` for its URL and says `async with transport.post(...) as reply`,
then reads `reply.json()` or `reply.events()`. Whatever goes wrong comes out as one of our
errors, with the provider's own request id in it and never with the key.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr

from models import loose, wire
from models.answerer import Clock
from models.errors import (
    AccountRefused,
    BadRequest,
    FusionError,
    Overloaded,
    Unavailable,
    UpstreamError,
)
from models.flagship.client import CONNECT_S
from models.flagship.headers import retry_after_s
from models.flagship.sse import MAX_ANSWER_BYTES, ServerSentEvents
from models.flagship.window import NETWORK, Window

#: How most dialects end a stream.
DONE = "[DONE]"
MAX_ERROR_BYTES = 64 * 2**10
#: How long a provider may take over the body of an error whose status we have already.
ERROR_BODY_S = 5.0
#: How long to look for a stream's end after its last event, so that its connection lives on.
DRAIN_S = 0.05
_HEADERS = {
    "Content-Type": "application/json",
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": "fusion-cluster",
}
_EXTENSIONS = {"timeout": {"connect": CONNECT_S}}
REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-generation-id", "cf-ray")


class Transport:
    """Posts JSON to one URL for one flagship model."""

    def __init__(
        self,
        connections: httpx.AsyncBaseTransport,
        model: str,
        url: str,
        clock: Clock,
        *,
        key: SecretStr | None = None,
        key_headers: Mapping[str, str] | None = None,
        mend: str = "",
        heed: Callable[[Mapping[str, str]], None] | None = None,
    ) -> None:
        """`mend` says what to check where the provider refuses the account; `heed` gets the
        headers of every answer."""
        self._connections = connections
        self._model = model
        self._url = httpx.URL(url)
        self._clock = clock
        self._key = key
        self._key_headers = key_headers or {"Authorization": "Bearer "}
        self._mend = mend
        self._heed = heed

    def __repr__(self) -> str:
        return f"Transport({self._model!r}, host={self._url.host!r})"

    @asynccontextmanager
    async def post(
        self, body: Mapping[str, Any], *, headers: Mapping[str, str], seconds: float
    ) -> AsyncIterator[Reply]:
        """A reply with a 2xx status, to be read inside the block and within `seconds`.

        Raises our errors only, those of the block included: a malformed answer may break the
        code that reads it in any way, and each way is the provider's fault.
        """
        window = Window(self._model, self._url.host, seconds)
        response: httpx.Response | None = None
        try:
            response = await window.wait(self._send(body, headers))
            if self._heed is not None:
                self._heed(response.headers)
            reply = Reply(self._model, response, window)
            if not response.is_success:
                raise await reply.refusal(self._clock.now())
            yield reply
        except FusionError as error:
            # In place: a new error would carry the old one, unsigned, as its context.
            self._sign(error, response)
            raise
        except (TypeError, AttributeError, ValueError, LookupError, RecursionError) as error:
            malformed = UpstreamError(
                f"Model '{self._model}' sent an answer that cannot be read"
                f" ({type(error).__name__})."
            )
            self._sign(malformed, response)
            raise malformed from None
        finally:
            if response is not None:
                with suppress(*NETWORK):
                    await response.aclose()

    async def _send(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> httpx.Response:
        try:
            # ASCII, because a lone surrogate in a prompt is valid JSON and not valid UTF-8.
            content = json.dumps(body, allow_nan=False).encode("ascii")
        except (TypeError, ValueError) as error:
            raise BadRequest(f"The request cannot be written as JSON: {error}") from None
        sent = {**_HEADERS, **headers}
        if self._key is not None:
            for header, prefix in self._key_headers.items():
                sent[header] = prefix + self._key.get_secret_value()
        # Not through a client: all that it adds (cookies, redirects, authentication) must not
        # happen here, and would be a twelfth of a gateway's work for a call.
        request = httpx.Request(
            "POST", self._url, content=content, headers=sent, extensions=_EXTENSIONS
        )
        return await self._connections.handle_async_request(request)

    def _sign(self, error: FusionError, response: httpx.Response | None) -> None:
        """Add what to check where the provider refuses the account, and its request id, and take
        the key out if it echoed that."""
        message = error.message
        if isinstance(error, AccountRefused) and self._mend:
            message += f" {self._mend}"
        if response is not None and (identity := _request_id(response)):
            message += f" [the provider's request id: {identity}]"
        if self._key is not None:
            message = message.replace(self._key.get_secret_value(), "[key]")
            if error.param:
                error.param = error.param.replace(self._key.get_secret_value(), "[key]")
        error.message = message
        error.args = (message,)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of a provider while it is being read."""

    _model: str
    _response: httpx.Response
    _window: Window

    @property
    def request_id(self) -> str | None:
        """The provider's own id of this call, where it sends one as a header."""
        return _request_id(self._response)

    async def json(self) -> dict[str, Any]:
        """The whole body. Raises what an error body means, whatever the status said."""
        self._expect("json")
        raw = await self._window.wait(self._read(MAX_ANSWER_BYTES))
        return self.parse(raw)

    async def events(self, over: Callable[[], bool]) -> AsyncGenerator[str, None]:
        """The data of each server-sent event, as it comes, until the body ends, `[DONE]` comes
        (it is not given out), or `over` says, after an event, that this was the last."""
        if "json" in self._content_type:
            # Some providers answer a refused stream with status 200 and an error as JSON.
            await self.json()
        self._expect("event-stream")
        parser = ServerSentEvents(MAX_ANSWER_BYTES)
        # httpx types its generator as an iterator, which has no aclose.
        async with aclosing(self._response.aiter_bytes()) as chunks:  # type: ignore[type-var]
            while (chunk := await self._window.wait(_next(chunks))) is not None:
                for data in parser.feed(chunk):
                    if data != DONE:
                        yield data
                    if data == DONE or over():
                        await _drain(chunks)
                        return
        for data in parser.end():
            if data != DONE:
                yield data

    def parse(self, text: str | bytes) -> dict[str, Any]:
        """This JSON object. Raises what it means if it is an error."""
        try:
            value = loose.decoded(text)
        except (ValueError, RecursionError):
            raise UpstreamError(
                f"Model '{self._model}' sent an answer that broke off or is not JSON."
            ) from None
        if not isinstance(value, dict):
            raise UpstreamError(f"Model '{self._model}' sent JSON that is not an answer.")
        if value.get("error") is not None or value.get("type") == "error":
            raise wire.error(None, value, model=self._model)
        # Some providers say `"error": null` with every answer.
        value.pop("error", None)
        return value

    async def refusal(self, now: float) -> FusionError:
        """What a status outside 2xx means."""
        status = self._response.status_code
        if 300 <= status < 400:
            return UpstreamError(
                f"The provider of model '{self._model}' redirects ({status}) to another address,"
                " which is not followed because the key would go with it. Mend base_url."
            )
        body: Any = None
        with suppress(FusionError, ValueError, RecursionError):
            # The status says enough: the body may break off, hang or be nonsense.
            raw = await self._window.wait(self._read(MAX_ERROR_BYTES), at_most=ERROR_BODY_S)
            body = loose.decoded(raw)
        if isinstance(body, list) and body:
            body = body[0]
        if not isinstance(body, dict):
            body = {"message": f"The provider of model '{self._model}' answered with {status}."}
        error = wire.error(status, body, model=self._model)
        wait = retry_after_s(self._response.headers, now)
        if wait is not None and isinstance(error, Overloaded | Unavailable):
            error.retry_after_s = wait
        return error

    @property
    def _content_type(self) -> str:
        kind: str = self._response.headers.get("content-type", "")
        return kind.partition(";")[0].strip().lower()

    def _expect(self, kind: str) -> None:
        if kind not in self._content_type:
            raise UpstreamError(
                f"Model '{self._model}' answered with content type"
                f" '{self._content_type[:100] or 'none'}' instead of {kind}. Check base_url."
            )

    async def _read(self, limit: int) -> bytes:
        whole = bytearray()
        # httpx types its generator as an iterator, which has no aclose.
        async with aclosing(self._response.aiter_bytes()) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                whole += chunk
                if len(whole) > limit:
                    raise UpstreamError(
                        f"Model '{self._model}' sent an answer of over {limit} bytes."
                    )
        return bytes(whole)


def _request_id(response: httpx.Response) -> str | None:
    for name in REQUEST_ID_HEADERS:
        if value := response.headers.get(name):
            return "".join(char for char in value if char.isprintable())[:100]
    return None


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    # A failure here costs a connection, not an answer.
    with suppress(TimeoutError, *NETWORK):
        async with asyncio.timeout(DRAIN_S):
            async for _ in chunks:
                pass
