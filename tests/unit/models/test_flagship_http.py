from __future__ import annotations

import email.utils
import json

import aiohttp
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import UpstreamError
from models.fake import FakeClock
from models.flagship.client import new_connections
from models.flagship.fake import FakeProvider, said, whole
from models.flagship.headers import MAX_RETRY_AFTER_S, retry_after_s
from models.flagship.http import Transport
from models.flagship.sse import ServerSentEvents
from models.flagship.window import never_sent

# Server-sent events


def parsed(*chunks: bytes) -> list[str]:
    parser = ServerSentEvents()
    out = [data for chunk in chunks for data in parser.feed(chunk)]
    return [*out, *parser.end()]


def test_events_end_with_an_empty_line() -> None:
    assert parsed(b"data: one\n\ndata:two\n\n") == ["one", "two"]


def test_only_data_counts() -> None:
    raw = b": keep-alive\n\nevent: message\nid: 7\nretry: 5\ndata: x\n\ndatax: no\n\nevent: y\n\n"
    assert parsed(raw) == ["x"]


def test_data_over_several_lines_is_joined() -> None:
    assert parsed(b"data: {\ndata:  1\ndata\n\n") == ["{\n 1\n"]


def test_an_event_with_nothing_in_it_is_none() -> None:
    assert parsed(b"data:\n\ndata: \n\ndata: x\n\n") == ["x"]


def test_a_mark_of_byte_order_is_no_part_of_the_first_event() -> None:
    assert parsed(b"\xef\xbb", b"\xbfdata: x\n\n") == ["x"]


def test_the_last_event_may_lack_its_empty_line() -> None:
    assert parsed(b"data: one\n\ndata: two\n") == ["one", "two"]
    assert parsed(b"data: [DONE]") == ["[DONE]"]


def test_only_line_feeds_and_returns_end_lines() -> None:
    text = "a\u2028b\u0085c\x0bd\x1ce"
    assert parsed(f"data: {text}\n\n".encode()) == [text]


def test_an_event_without_end_is_not_kept_for_ever() -> None:
    parser = ServerSentEvents(limit=100)
    with pytest.raises(UpstreamError):
        for _ in range(200):
            list(parser.feed(b"data: x\n"))


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[list[str], list[bytes]]:
    """Events, and their bytes cut anywhere, also within a character and within CRLF."""
    said = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
    events = [json.dumps(text, ensure_ascii=False) for text in said]
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    raw = "".join(f": ping{end}{end}data: {event}{end}{end}" for event in events).encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=20)))
    chunks = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    return events, chunks


@given(cut_streams())
def test_where_the_chunks_are_cut_does_not_matter(case: tuple[list[str], list[bytes]]) -> None:
    events, chunks = case
    assert parsed(*chunks) == events


# Retry-After


def test_retry_after_in_its_forms() -> None:
    date = email.utils.formatdate(1_000_060, usegmt=True)
    assert retry_after_s({"retry-after": "2.5"}, now=0) == 2.5
    assert retry_after_s({"retry-after-ms": "250"}, now=0) == 0.25
    assert retry_after_s({"retry-after": date}, now=1_000_000) == 60
    assert retry_after_s({"retry-after": date}, now=1_000_100) == 0
    assert retry_after_s({}, now=0) is None
    assert retry_after_s({"retry-after-ms": "soon", "retry-after": "7"}, now=0) == 7


@given(st.text(max_size=40) | st.floats().map(str))
def test_no_retry_after_is_a_trap(value: str) -> None:
    wait = retry_after_s({"retry-after": value}, now=0)
    assert wait is None or 0 <= wait <= MAX_RETRY_AFTER_S


# Failures


def failure(outer: Exception, cause: Exception | None) -> Exception:
    outer.__cause__ = cause
    return outer


def test_only_a_failed_connection_has_sent_nothing() -> None:
    dropped = failure(httpx.ConnectTimeout("x"), aiohttp.ServerDisconnectedError())
    reset = failure(httpx.ConnectTimeout("x"), aiohttp.ClientOSError(104, "reset"))
    slow = failure(httpx.ConnectTimeout("x"), aiohttp.ConnectionTimeoutError())
    assert [never_sent(error) for error in (dropped, reset, slow)] == [False, False, True]
    assert never_sent(httpx.ConnectError("x"))
    assert not never_sent(httpx.ReadError("x"))
    assert not never_sent(aiohttp.ClientPayloadError())


# The client


async def test_no_cookie_is_kept() -> None:
    cookie = whole({}, headers={"set-cookie": "who=project-a; Path=/"})
    async with FakeProvider([cookie, said("ok")]) as provider, new_connections() as connections:
        transport = Transport(connections, "big", provider.base_url + "/x", FakeClock())
        for _ in range(2):
            async with transport.post({}, headers={}, seconds=5) as reply:
                await reply.json()
    assert "cookie" not in provider.asked[1].headers


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeProvider([said("ok")]) as proxy:
        monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "direct.invalid")
        async with new_connections() as connections:
            transport = Transport(connections, "big", "http://api.invalid/v1/x", FakeClock())
            async with transport.post({}, headers={}, seconds=5) as reply:
                await reply.json()
            direct = Transport(connections, "big", "http://direct.invalid/v1/x", FakeClock())
            with pytest.raises(Exception, match="Cannot connect"):
                async with direct.post({}, headers={}, seconds=5):
                    pass
    assert [asked.path for asked in proxy.asked] == ["http://api.invalid/v1/x"]


async def test_a_proxy_may_be_named_without_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeProvider([said("ok")]) as proxy:
        address = proxy.base_url.removeprefix("http://").removesuffix("/v1")
        monkeypatch.setenv("http_proxy", address)
        async with new_connections() as connections:
            transport = Transport(connections, "big", "http://api.invalid/v1/x", FakeClock())
            async with transport.post({}, headers={}, seconds=5) as reply:
                await reply.json()
    assert len(proxy.asked) == 1


async def test_an_answer_that_grows_without_end_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.flagship.http.MAX_ANSWER_BYTES", 1000)
    async with FakeProvider([whole(b" " * 5000)]) as provider, new_connections() as connections:
        transport = Transport(connections, "big", provider.base_url + "/x", FakeClock())
        with pytest.raises(UpstreamError, match="1000 bytes"):
            async with transport.post({}, headers={}, seconds=5) as reply:
                await reply.json()


async def test_half_characters_of_an_answer_are_marked() -> None:
    spelt = b'{"a": ["\\ud83d", "\\ud83d\\ude00 \\\\ud83d"], "b\\uDE00": 1}'
    raw = b'{"a": "\xed\xa0\xbd", "b": "\xed\x95\x9c"}'
    replies = [whole(spelt), whole(raw)]
    async with FakeProvider(replies) as provider, new_connections() as connections:
        transport = Transport(connections, "big", provider.base_url + "/x", FakeClock())
        async with transport.post({}, headers={}, seconds=5) as reply:
            assert await reply.json() == {"a": ["?", "\U0001f600 \\ud83d"], "b?": 1}
        async with transport.post({}, headers={}, seconds=5) as reply:
            assert await reply.json() == {"a": "?", "b": "\ud55c"}


async def test_what_breaks_the_reading_of_an_answer_is_the_providers_fault() -> None:
    async with FakeProvider([said("ok")]) as provider, new_connections() as connections:
        transport = Transport(connections, "big", provider.base_url + "/x", FakeClock())
        with pytest.raises(UpstreamError, match="cannot be read"):
            async with transport.post({}, headers={}, seconds=5) as reply:
                (await reply.json())["no such thing"]
