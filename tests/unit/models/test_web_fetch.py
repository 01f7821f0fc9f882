"""`web_fetch` against a hostile server on real sockets.

Two servers listen on loopback: the page's, whose port a test permits, and one that stands for
something internal, which must never be reached.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from models.errors import FusionError, Unavailable, Unsupported, UpstreamError
from models.messages import Source
from models.tools.settings import WebFetch
from models.tools.toolbox import ToolResult
from models.tools.web_fetch import Fetch

ARTICLE = (
    "<html><head><title>Why the sky is blue</title></head><body><nav>Home | About</nav>"
    "<article><h1>Why the sky is blue</h1><p>{}</p></article>"
    "<script>alert(1)</script></body></html>"
).format("Air scatters short waves more than long ones. " * 20)


@dataclass
class Names(AbstractResolver):
    """DNS of a hostile owner: each answer may differ from the one before."""

    answers: list[str] = field(default_factory=lambda: ["127.0.0.1"])
    asked: list[str] = field(default_factory=list)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        kind = socket.AF_INET6 if ":" in answer else socket.AF_INET
        flags = socket.AI_NUMERICHOST
        return [
            ResolveResult(hostname=host, host=answer, port=port, family=kind, proto=0, flags=flags)
        ]

    async def close(self) -> None: ...


@dataclass
class Site:
    """The hostile server, the internal one beside it, and what each was asked."""

    port: int = 0
    internal_port: int = 0
    asked: list[web.BaseRequest] = field(default_factory=list)
    reached_inside: int = 0

    async def page(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request)
        match request.path.split("/")[1:]:
            case ["article"]:
                return web.Response(text=ARTICLE, content_type="text/html")
            case ["plain"]:
                return web.Response(
                    body="größer".encode("latin-1"),
                    headers={"content-type": "text/plain; charset=latin-1"},
                )
            case ["zip"]:
                return web.Response(body=b"x", headers={"content-type": "text/plain; charset=zip"})
            case ["to", where]:
                target = where.replace("|", "/").replace("INSIDE", str(self.internal_port))
                return web.Response(status=302, headers={"location": target})
            case ["round"]:
                return web.Response(status=302, headers={"location": "/round"})
            case ["cookie"]:
                return web.Response(
                    status=302, headers={"location": "/article", "set-cookie": "seen=1; path=/"}
                )
            case ["image"]:
                return web.Response(body=b"\x89PNG", content_type="image/png")
            case ["bomb"]:
                return web.Response(
                    body=gzip.compress(b"0" * 10_000_000),
                    headers={"content-type": "text/plain", "content-encoding": "gzip"},
                )
            case ["endless"]:
                answer = web.StreamResponse(headers={"content-type": "text/plain"})
                await answer.prepare(request)
                while True:
                    await answer.write(b"word " * 1000)
            case ["slow"]:
                answer = web.StreamResponse(headers={"content-type": "text/plain"})
                await answer.prepare(request)
                while True:
                    await answer.write(b".")
                    await asyncio.sleep(0.02)
            case ["silent"]:
                await asyncio.sleep(5)
            case ["headers"]:
                return web.Response(headers={"x-long": "y" * 100_000})
            case ["empty"]:
                return web.Response(text="", content_type="text/html")
        return web.Response(status=404)

    async def inside(self, request: web.BaseRequest) -> web.StreamResponse:
        self.reached_inside += 1
        return web.Response(text="the crown jewels")

    def fetch(self, names: Names | None = None, **limits: float) -> Fetch:
        return Fetch(
            WebFetch(**limits),
            permitted=frozenset({("127.0.0.1", self.port)}),
            resolver=names or Names(),
        )

    async def read(self, path: str, **limits: float) -> ToolResult:
        return await self.fetch(**limits).run({"url": f"http://site.example:{self.port}{path}"})


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    runners = []
    for handler, name in ((made.page, "port"), (made.inside, "internal_port")):
        runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        setattr(made, name, runner.addresses[0][1])
        runners.append(runner)
    yield made
    for runner in runners:
        await runner.cleanup()


async def test_a_page_is_its_title_and_main_text(site: Site) -> None:
    result = await site.read("/article")
    assert "Air scatters short waves" in result.text
    assert "alert" not in result.text
    assert "About" not in result.text
    where = f"http://site.example:{site.port}/article"
    assert result.sources == (Source(where, "Why the sky is blue"),)


async def test_the_request_names_the_host_and_carries_nothing_of_ours(site: Site) -> None:
    await site.read("/article")
    headers = site.asked[0].headers
    assert headers["host"] == f"site.example:{site.port}"
    assert not {"cookie", "authorization", "referer", "x-forwarded-for"} & {
        h.lower() for h in headers
    }


async def test_text_is_read_in_its_own_charset(site: Site) -> None:
    assert "größer" in (await site.read("/plain")).text
    assert "x" in (await site.read("/zip")).text


async def test_a_long_text_is_cut_and_says_so(site: Site) -> None:
    result = await site.read("/article", max_chars=200)
    assert len(result.text) < 400
    assert "goes on" in result.text


async def test_a_page_without_end_is_read_up_to_the_limit(site: Site) -> None:
    result = await site.read("/endless", max_bytes=10_000)
    assert "goes on" in result.text


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:INSIDE/",
        "http://localhost:INSIDE/",
        "http://2130706433:INSIDE/",
        "http://0x7f000001:INSIDE/",
        "http://0177.0.0.1:INSIDE/",
        "http://127.1:INSIDE/",
        "http://0:INSIDE/",
        "http://0.0.0.0:INSIDE/",
        "http://[::1]:INSIDE/",
        "http://[::ffff:127.0.0.1]:INSIDE/",
        "http://[::ffff:7f00:1]:INSIDE/",
        "http://①②⑦.0.0.1:INSIDE/",
        "http://127。0。0。1:INSIDE/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://10.0.0.1/",
        "http://192.168.0.1/",
        "http://[fe80::1]/",
        "http://224.0.0.1/",
        "https://127.0.0.1:INSIDE/",
    ],
)
async def test_nothing_inside_is_reached_whatever_its_address_looks_like(
    site: Site, url: str
) -> None:
    fetch = Fetch(WebFetch(timeout_s=5))  # the real resolver, and no permission
    with pytest.raises((FusionError, ValueError)):
        await fetch.run({"url": url.replace("INSIDE", str(site.internal_port))})
    assert site.reached_inside == 0


@pytest.mark.parametrize(
    "answer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254"]
)
async def test_a_name_that_leads_inside_is_refused(site: Site, answer: str) -> None:
    fetch = site.fetch(Names([answer]))
    with pytest.raises(Unavailable, match="open internet"):
        await fetch.run({"url": f"http://innocent.example:{site.internal_port}/"})
    assert site.reached_inside == 0


@pytest.mark.parametrize(
    "target",
    [
        "http:||127.0.0.1:INSIDE|",
        "http:||localhost:INSIDE|",
        "||site.example:INSIDE|",
        "http:||[::ffff:127.0.0.1]:INSIDE|",
        "file:|||etc|passwd",
        "http:||me:secret@site.example:INSIDE|",
    ],
)
async def test_a_redirect_that_leads_inside_is_refused(site: Site, target: str) -> None:
    with pytest.raises((Unavailable, ValueError)):
        await site.read(f"/to/{target}")
    assert site.reached_inside == 0
    assert len(site.asked) == 1


async def test_a_name_whose_answer_changes_is_looked_at_each_time(site: Site) -> None:
    names = Names(["127.0.0.1", "10.0.0.1"])  # the second answer is for the redirect
    with pytest.raises(Unavailable, match="open internet"):
        await site.fetch(names).run({"url": f"http://a.example:{site.port}/to/|article"})
    assert names.asked == ["a.example", "a.example"]


async def test_what_a_page_sets_as_a_cookie_does_not_come_back(site: Site) -> None:
    await site.read("/cookie")
    assert "cookie" not in site.asked[1].headers


async def test_redirects_have_an_end(site: Site) -> None:
    with pytest.raises(UpstreamError, match="more than 3"):
        await site.read("/round", max_redirects=3)
    assert len(site.asked) == 4


@pytest.mark.parametrize("path", ["/silent", "/slow"])
async def test_a_page_that_takes_its_time_is_given_up(site: Site, path: str) -> None:
    with pytest.raises(Unavailable, match=r"0\.1 seconds"):
        await site.read(path, timeout_s=0.1)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/image", Unsupported),
        ("/bomb", UpstreamError),
        ("/headers", Unavailable),
        ("/empty", Unsupported),
        ("/nowhere", UpstreamError),
    ],
)
async def test_what_cannot_be_read_is_said(site: Site, path: str, error: type[FusionError]) -> None:
    with pytest.raises(error):
        await site.read(path)


async def test_proxies_of_the_environment_are_not_used(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{site.internal_port}")
    await site.read("/article")
    assert site.reached_inside == 0


@pytest.mark.parametrize("url", [None, "", 7])
async def test_an_address_is_needed(site: Site, url: object) -> None:
    with pytest.raises(ValueError, match="url"):
        await site.fetch().run({"url": url})


@pytest.mark.parametrize(
    ("parameters", "may"),
    [
        ({"allowed_domains": ("example",)}, True),
        ({"allowed_domains": ("other.example",)}, False),
        ({"blocked_domains": ("site.example",)}, False),
    ],
)
async def test_a_request_says_which_hosts_are_read(
    site: Site, parameters: dict[str, tuple[str, ...]], may: bool
) -> None:
    fetch = site.fetch().limited(parameters)
    reading = fetch.run({"url": f"http://site.example:{site.port}/article"})
    if may:
        assert "Why the sky is blue" in (await reading).text
        return
    with pytest.raises(Unsupported, match="does not let that host"):
        await reading
    assert site.asked == []


async def test_a_redirect_does_not_lead_to_a_host_that_the_request_forbids(site: Site) -> None:
    fetch = site.fetch().limited({"blocked_domains": ("bad.example",)})
    with pytest.raises(Unsupported, match="does not let that host"):
        await fetch.run(
            {"url": f"http://a.example:{site.port}/to/http:||bad.example:{site.port}|x"}
        )
    assert len(site.asked) == 1


async def test_a_request_says_how_much_of_a_page_is_read(site: Site) -> None:
    url = {"url": f"http://site.example:{site.port}/article"}
    short = await site.fetch().limited({"max_content_tokens": 50}).run(url)
    assert "goes on" in short.text
    # Never more than the catalog lets anybody read.
    most = await site.fetch(max_chars=200).limited({"max_content_tokens": 9999}).run(url)
    assert most.text == (await site.fetch(max_chars=200).run(url)).text
