"""The connections that all flagship models of one process share."""

from __future__ import annotations

import ssl
import urllib.request
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from models.errors import Unavailable

CONNECT_S = 10.0
#: Below the five seconds after which common servers drop an idle connection: a request sent
#: down a connection that is just closing fails, and must not be repeated.
KEEPALIVE_S = 4.0


def new_client() -> httpx.AsyncClient:
    """A client on connections of its own. Whoever made it closes it."""
    return httpx.AsyncClient(
        transport=new_connections(),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=httpx.Timeout(None, connect=CONNECT_S),
        follow_redirects=False,
        trust_env=False,
    )


def new_connections() -> httpx.AsyncBaseTransport:
    """What all flagship models of one process send their requests down. Whoever made it closes it.

    Proxies come from the environment. It belongs to the event loop of its first request.
    """
    context = _trust()

    def session() -> aiohttp.ClientSession:
        # Permits bound the calls in flight, so the pool must not; and what one project's call
        # leaves in a cookie must not travel with another's.
        connector = aiohttp.TCPConnector(limit=0, ssl=context, keepalive_timeout=KEEPALIVE_S)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    named = urllib.request.getproxies()
    proxies = {
        scheme: AiohttpTransport(verify=context, client=session, proxy=_proxy(address))
        for scheme in ("http", "https")
        if (address := named.get(scheme) or named.get("all"))
    }
    return _Routes(AiohttpTransport(verify=context, client=session), proxies)


def _proxy(address: str) -> httpx.Proxy:
    # Many write the variable without a scheme, and most programs take it so.
    return httpx.Proxy(address if "://" in address else f"http://{address}")


@cache
def _trust() -> ssl.SSLContext:
    """Whom to believe. Reading all the certificates takes a hundredth of a second and more."""
    return httpx.create_ssl_context()


class _Routes(httpx.AsyncBaseTransport):
    """Straight to the host, or through the proxy that the environment names for it."""

    def __init__(
        self, straight: httpx.AsyncBaseTransport, proxies: dict[str, httpx.AsyncBaseTransport]
    ) -> None:
        self._straight = straight
        self._proxies = proxies
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._closed:
            raise Unavailable("This gateway is shutting down.")
        url = request.url
        proxied = self._proxies.get(url.scheme)
        if proxied is None or urllib.request.proxy_bypass(url.host):
            return await self._straight.handle_async_request(request)
        return await proxied.handle_async_request(request)

    async def aclose(self) -> None:
        self._closed = True
        for transport in (self._straight, *self._proxies.values()):
            await transport.aclose()
