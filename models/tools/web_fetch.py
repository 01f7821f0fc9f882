"""`web_fetch`: one page of the open internet, as readable text."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver
from yarl import URL

from models.errors import Unavailable, Unsupported, UpstreamError
from models.messages import Source, Tool
from models.tools import guard, page
from models.tools.domains import permits
from models.tools.options import FetchOptions
from models.tools.settings import WebFetch
from models.tools.toolbox import ToolResult

NAME = "web_fetch"
_HEADERS = {
    "user-agent": "fusion-cluster",
    "accept": "text/html, application/xhtml+xml, text/plain;q=0.9, */*;q=0.1",
    # Uncompressed, so that the bytes that are counted are all that there are.
    "accept-encoding": "identity",
}
_DEFAULTS = FetchOptions()
#: English has four, code and digits three.
_CHARS_A_TOKEN = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Fetch:
    """Reads pages after the limits of `spec`, without cookies, credentials or proxies.

    `permitted` and `resolver` are for tests, which have no internet.
    """

    settings: WebFetch
    permitted: guard.Permitted = frozenset()
    resolver: AbstractResolver | None = None
    tls: ssl.SSLContext = field(default_factory=httpx.create_ssl_context)
    #: One request's own.
    options: FetchOptions = _DEFAULTS

    @property
    def spec(self) -> Tool:
        return Tool(
            NAME,
            "Read one web page. Gives its title and main text.",
            {
                "type": "object",
                "properties": {
                    "url": {"type": "string", "description": "An http:// or https:// address."}
                },
                "required": ["url"],
                "additionalProperties": False,
            },
        )

    def limited(self, parameters: Mapping[str, Any]) -> Fetch:
        return replace(self, options=FetchOptions.of(parameters))

    @property
    def max_uses(self) -> int | None:
        return self.options.max_uses

    @property
    def nano_usd(self) -> int:
        return 0

    @property
    def max_chars(self) -> int:
        asked, most = self.options.max_content_tokens, self.settings.max_chars
        return most if asked is None else min(most, asked * _CHARS_A_TOKEN)

    async def run(self, arguments: Mapping[str, Any]) -> ToolResult:
        url = arguments.get("url")
        if not isinstance(url, str) or not url.strip():
            raise ValueError("'url' must be the address of a page")
        try:
            async with asyncio.timeout(self.settings.timeout_s), self._session() as session:
                where, body, kind, charset, cut = await self._follow(session, url.strip())
        except TimeoutError:
            raise Unavailable(
                f"The page did not come within {self.settings.timeout_s:g} seconds."
            ) from None
        except aiohttp.ClientError as error:
            raise Unavailable(f"The page cannot be reached ({_reason(error)}).") from None
        # Parsing takes a processor's time: not on the loop that serves everybody.
        read = await asyncio.to_thread(page.read, body, kind, charset)
        text = read.text[: self.max_chars]
        if not text:
            raise Unsupported("The page has no text that can be read.")
        if cut or len(text) < len(read.text):
            text += "\n[The page goes on; this is its beginning.]"
        title = read.title or urlsplit(where).netloc
        return ToolResult(f"{title}\n{where}\n\n{text}", (Source(where, title),))

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            ssl=self.tls,
            socket_factory=guard.socket_factory(self.permitted),
            resolver=self.resolver,
            use_dns_cache=False,
            force_close=True,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # no proxy, which would connect where we did not look; no .netrc
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def _follow(
        self, session: aiohttp.ClientSession, url: str
    ) -> tuple[str, bytes, str, str | None, bool]:
        """The last address, its bytes, type and charset, and whether they were cut."""
        for _ in range(self.settings.max_redirects + 1):
            guard.check_url(url)
            if not permits(url, self.options.allowed_domains, self.options.blocked_domains):
                raise Unsupported("This request does not let that host be read.")
            async with session.get(URL(url), headers=_HEADERS, allow_redirects=False) as answer:
                if answer.status in _REDIRECTS and "location" in answer.headers:
                    url = urljoin(url, answer.headers["location"])
                    continue
                _check(answer)
                body, cut = await _bounded(answer, self.settings.max_bytes)
                return url, body, answer.content_type, answer.charset, cut
        raise UpstreamError(f"The page redirects more than {self.settings.max_redirects} times.")


def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status >= 400:
        raise UpstreamError(f"The page answers with HTTP {answer.status}.")
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise UpstreamError("The page comes compressed although that was not asked for.")
    if not page.readable(answer.content_type):
        raise Unsupported(f"The page is '{answer.content_type}', which is not text.")


async def _bounded(answer: aiohttp.ClientResponse, limit: int) -> tuple[bytes, bool]:
    """The first `limit` bytes, and whether there are more."""
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > limit:
            return bytes(body[:limit]), True
    return bytes(body), False


def _reason(error: aiohttp.ClientError) -> str:
    """Why, in words that say nothing about our network."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None
    if isinstance(cause, guard.Refused):
        return "its address is not one of the open internet"
    if isinstance(cause, socket.gaierror) or isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name has no address"
    return type(error).__name__
