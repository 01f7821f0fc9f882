from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import httpx
import pytest

from models.call import Call
from models.errors import (
    AccountRefused,
    BadRequest,
    ContextTooLong,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    RateLimited,
    Refused,
    Unavailable,
    UpstreamError,
)
from models.fake import FakeClock
from models.flagship.answerer import Flagship
from models.flagship.client import new_connections
from models.flagship.fake import Answer, FakeProvider, delta, events, said, whole
from models.flagship.key import MissingKey
from models.flagship.openai_chat import OpenAIChat
from models.messages import (
    Done,
    Event,
    Request,
    ResponseFormat,
    Sampling,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
    user,
)
from models.spec import OpenAIModel

KEY = "sk-planted-0123456789"
ASK = Request("big", (user("what is this"),))
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
HELLO = (delta("hel"), delta("lo"), delta(finish="stop"), {"choices": [], "usage": USAGE})


@pytest.fixture
async def connections() -> AsyncIterator[httpx.AsyncBaseTransport]:
    async with new_connections() as connections:
        yield connections


@pytest.fixture(autouse=True)
def key_grep(caplog: pytest.LogCaptureFixture) -> Any:
    """Whatever a test does, the planted key is in no log."""
    caplog.set_level(logging.DEBUG)
    yield
    assert KEY not in caplog.text


def model(connections: httpx.AsyncBaseTransport, base_url: str, **spec: Any) -> Flagship:
    settings = {"engine": "openai", "base_url": base_url, "api_key_env": "K", **spec}
    return Flagship("big", OpenAIModel.model_validate(settings), connections, environ={"K": KEY})


async def fails(
    connections: httpx.AsyncBaseTransport,
    answer: Answer,
    *,
    stream: bool,
    call: Call | None = None,
    **spec: Any,
) -> FusionError:
    """The error of one call that gets this answer, searched for the key."""
    async with FakeProvider([answer]) as provider:
        chat = model(connections, provider.base_url, **spec)
        with pytest.raises(FusionError) as caught:
            if stream:
                await listen(chat, call)
            else:
                await chat.complete(ASK, call or Call())
    return clean(caught.value)


def clean(error: FusionError) -> FusionError:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for each in chain:
        assert KEY not in f"{each} {each!r} {vars(each)}"
    return error


async def listen(chat: Flagship, call: Call | None = None) -> list[Event]:
    return [event async for event in chat.stream(ASK, call or Call())]


both = pytest.mark.parametrize("stream", [False, True])

# What goes well


async def test_it_asks_in_the_dialect_and_reads_the_answer(
    connections: httpx.AsyncBaseTransport,
) -> None:
    async with FakeProvider([said("hello there")]) as provider:
        chat = model(connections, provider.base_url, upstream="gpt-big")
        done = await chat.complete(ASK, Call(fusion_depth=2))
    assert (done.model, done.text, done.usage) == ("big", "hello there", Usage(3, 2))
    [asked] = provider.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["x-openrouter-fusion-depth"] == "2"
    assert asked.body["model"] == "gpt-big"
    assert asked.body["messages"] == [{"role": "user", "content": "what is this"}]


@pytest.mark.parametrize("tells", [True, False])
async def test_who_cannot_tell_how_likely_its_tokens_were_is_not_asked(
    connections: httpx.AsyncBaseTransport, tells: bool
) -> None:
    wanted = replace(ASK, sampling=Sampling(logprobs=True))
    async with FakeProvider([said("hello there")]) as provider:
        await model(connections, provider.base_url, logprobs=tells).complete(wanted, Call())
    assert ("logprobs" in provider.asked[0].body) is tells


async def test_it_streams(connections: httpx.AsyncBaseTransport) -> None:
    async with FakeProvider([events(*HELLO, "[DONE]")]) as provider:
        *deltas, done = await listen(model(connections, provider.base_url))
    assert deltas == [TextDelta("hel"), TextDelta("lo")]
    assert isinstance(done, Done)
    assert (done.completion.text, done.completion.usage) == ("hello", Usage(3, 2))
    assert provider.asked[0].body["stream_options"] == {"include_usage": True}


async def test_a_stream_may_end_without_its_mark(connections: httpx.AsyncBaseTransport) -> None:
    async with FakeProvider([events(*HELLO)]) as provider:
        assert isinstance((await listen(model(connections, provider.base_url)))[-1], Done)


async def test_tool_calls_come_in_pieces(connections: httpx.AsyncBaseTransport) -> None:
    def piece(**call: Any) -> dict[str, Any]:
        return {"choices": [{"delta": {"tool_calls": [{"index": 0, **call}]}}]}

    answer = events(
        piece(id="c1", function={"name": "find", "arguments": '{"q":'}),
        piece(function={"arguments": "1}"}),
        delta(finish="tool_calls"),
        "[DONE]",
    )
    async with FakeProvider([answer]) as provider:
        *deltas, done = await listen(model(connections, provider.base_url))
    assert deltas == [ToolCallDelta(0, '{"q":', "c1", "find"), ToolCallDelta(0, "1}")]
    assert isinstance(done, Done)
    assert done.completion.message.tool_calls == (ToolCall("c1", "find", '{"q":1}'),)


async def test_a_connection_is_used_again(connections: httpx.AsyncBaseTransport) -> None:
    async with FakeProvider([said("a"), events(*HELLO, "[DONE]"), said("b")]) as provider:
        chat = model(connections, provider.base_url)
        await chat.complete(ASK, Call())
        await listen(chat)
        await chat.complete(ASK, Call())
    assert provider.connections == 1


async def test_openai_itself_gets_the_new_name_of_max_tokens() -> None:
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(503)

    request = Request("big", ASK.messages, Sampling(max_tokens=7))
    async with httpx.MockTransport(answer) as connections:
        for url in ("https://api.openai.com/v1", "https://other.example/v1"):
            with pytest.raises(Unavailable):
                await model(connections, url).complete(request, Call())
    assert b'"max_completion_tokens": 7' in bodies[0]
    assert b'"max_tokens": 7' in bodies[1]


@pytest.mark.parametrize(
    ("url", "strict"),
    [("https://api.openai.com/v1", [True, False]), ("https://other.example/v1", [True, True])],
)
def test_openai_itself_is_not_asked_to_be_strict_about_what_it_must_refuse(
    url: str, strict: list[bool]
) -> None:
    dialect = OpenAIChat(OpenAIModel(engine="openai", base_url=url))
    closed = {"type": "object", "additionalProperties": False}
    optional = {**closed, "properties": {"a": {"type": "string"}}}
    for schema, expected in zip((closed, optional), strict, strict=True):
        request = replace(
            ASK,
            tools=(Tool("t", parameters=schema, strict=True),),
            response_format=ResponseFormat("json_schema", schema=schema, strict=True),
        )
        body = dialect.payload(request, model="m", stream=False)
        assert body["tools"][0]["function"]["strict"] is expected
        assert body["response_format"]["json_schema"]["strict"] is expected


async def test_a_null_error_is_none(connections: httpx.AsyncBaseTransport) -> None:
    chunks = ({**chunk, "error": None} for chunk in HELLO)
    async with FakeProvider([events(*chunks, "[DONE]")]) as provider:
        assert isinstance((await listen(model(connections, provider.base_url)))[-1], Done)


async def test_a_lone_surrogate_is_no_crash(connections: httpx.AsyncBaseTransport) -> None:
    async with FakeProvider([said("ok")]) as provider:
        await model(connections, provider.base_url).complete(
            Request("big", (user("half \ud83d"),)), Call()
        )
    assert provider.asked[0].body["messages"][0]["content"] == "half \ud83d"


# The key


async def test_the_key_shows_nowhere(connections: httpx.AsyncBaseTransport) -> None:
    chat = model(connections, "http://127.0.0.1:1/v1")
    assert KEY not in f"{chat!r} {chat} {vars(chat)} {vars(chat._transport)}"


@pytest.mark.parametrize("value", ["", "  ", "a\nb", "schlüssel"])
async def test_without_a_key_there_is_no_model(
    connections: httpx.AsyncBaseTransport, value: str
) -> None:
    spec = OpenAIModel(engine="openai", api_key_env="K", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(MissingKey, match="K") as caught:
        Flagship("big", spec, connections, environ={"K": value})
    assert "schlüssel" not in str(caught.value)


async def test_a_model_may_need_no_key(connections: httpx.AsyncBaseTransport) -> None:
    async with FakeProvider([said("ok")]) as provider:
        await model(connections, provider.base_url, api_key_env=None).complete(ASK, Call())
    assert "authorization" not in provider.asked[0].headers


@both
async def test_a_provider_that_echoes_the_key_is_not_quoted(
    connections: httpx.AsyncBaseTransport, stream: bool
) -> None:
    echo = {"error": {"message": f"Your key {KEY} is fine", "param": KEY}}
    error = await fails(connections, whole(echo, 400), stream=stream)
    assert "[key]" in error.message


@both
async def test_a_redirect_is_not_followed(
    connections: httpx.AsyncBaseTransport, stream: bool
) -> None:
    async with FakeProvider([said("stolen")]) as other:
        there = {"location": other.base_url + "/chat/completions"}
        error = await fails(connections, whole({}, 307, there), stream=stream)
    assert isinstance(error, UpstreamError)
    assert "redirects" in error.message
    assert other.connections == 0


# What a provider answers


@both
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, AccountRefused),
        (404, Refused),
        (429, RateLimited),
        (500, UpstreamError),
        (503, Unavailable),
        (504, DeadlineExceeded),
        (418, UpstreamError),
    ],
)
async def test_a_status_means_an_error(
    connections: httpx.AsyncBaseTransport, stream: bool, status: int, kind: type[FusionError]
) -> None:
    body = {"error": {"message": "Because."}}
    answer = whole(body, status, {"x-request-id": "up-77"})
    error = await fails(connections, answer, stream=stream)
    assert type(error) is kind
    assert "up-77" in error.message


async def test_a_prompt_that_is_too_long_is_known_as_such(
    connections: httpx.AsyncBaseTransport,
) -> None:
    body = {"error": {"message": "Too long.", "code": "context_length_exceeded"}}
    assert isinstance(await fails(connections, whole(body, 400), stream=False), ContextTooLong)


@both
@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "7", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "soon"}, 1.0),
        ({}, 1.0),
    ],
)
async def test_retry_after_is_passed_on(
    connections: httpx.AsyncBaseTransport, stream: bool, headers: dict[str, str], wait: float
) -> None:
    error = await fails(
        connections, whole({"error": {"message": "Slow."}}, 429, headers), stream=stream
    )
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == wait


@both
@pytest.mark.parametrize(
    "answer",
    [
        whole(b"<html>Bad gateway</html>", 503, {"content-type": "text/html"}),
        whole(b"{", 503),
        whole([{"error": {"message": "In a list."}}], 503),
        # The status is known; the body never comes.
        Answer(whole({}, 503, {"content-length": "99"}).pieces, then="close"),
    ],
)
async def test_an_error_needs_no_proper_body(
    connections: httpx.AsyncBaseTransport, stream: bool, answer: Answer
) -> None:
    error = await fails(connections, answer, stream=stream)
    assert isinstance(error, Unavailable)
    assert "html" not in error.message


@both
async def test_an_error_may_come_with_status_200(
    connections: httpx.AsyncBaseTransport, stream: bool
) -> None:
    body = {"error": {"message": "Slow down.", "code": 429}}
    error = await fails(connections, whole(body), stream=stream)
    assert isinstance(error, Overloaded)
    assert "Slow down." in error.message


@both
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "text/plain", ""])
async def test_another_content_type_is_not_read(
    connections: httpx.AsyncBaseTransport, stream: bool, kind: str
) -> None:
    answer = whole(b"<p>Log in first</p>", headers={"content-type": kind})
    error = await fails(connections, answer, stream=stream)
    assert isinstance(error, UpstreamError)
    assert "content type" in error.message


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"[]",
        b"3",
        b'{"choices": []}',
        b'{"choices": [{"message": 5}]}',
        b"[" * 100_000,
        b'"\xff"',
    ],
)
async def test_an_answer_that_is_none_is_the_providers_fault(
    connections: httpx.AsyncBaseTransport, body: bytes
) -> None:
    error = await fails(connections, whole(body), stream=False)
    assert type(error) is UpstreamError


@pytest.mark.parametrize(
    "event",
    ["{", "[]", "3", "", {"choices": [{"delta": {"tool_calls": 5}}]}, b"data: \xff\xfe\n\n"],
)
async def test_neither_is_an_event(connections: httpx.AsyncBaseTransport, event: Any) -> None:
    error = await fails(connections, events(event), stream=True)
    assert type(error) is UpstreamError


async def test_an_error_in_the_middle_of_a_stream(connections: httpx.AsyncBaseTransport) -> None:
    answer = events(delta("a"), {"error": {"message": "Gone."}}, headers={"request-id": "up-8"})
    error = await fails(connections, answer, stream=True)
    assert "Gone." in error.message
    assert "up-8" in error.message


# What the network does


@both
async def test_a_provider_that_is_not_there_may_be_asked_again(
    connections: httpx.AsyncBaseTransport, stream: bool
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        chat = model(connections, f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        with pytest.raises(Unavailable, match="Cannot connect") as caught:
            await (listen(chat) if stream else chat.complete(ASK, Call()))
    assert clean(caught.value).safe_to_repeat


CUT = whole({"choices": []}, headers={"content-length": "999"}).pieces


@both
@pytest.mark.parametrize("then", ["reset", "close"])
@pytest.mark.parametrize("pieces", [(), (b"HTTP/1.1 200 OK\r\nconte",), CUT])
async def test_a_connection_that_breaks_later_may_not(
    connections: httpx.AsyncBaseTransport, stream: bool, then: Any, pieces: tuple[bytes, ...]
) -> None:
    error = await fails(connections, Answer(pieces, then=then), stream=stream)
    assert type(error) is UpstreamError
    assert not error.safe_to_repeat


async def test_not_http_at_all(connections: httpx.AsyncBaseTransport) -> None:
    error = await fails(
        connections, Answer((b"SSH-2.0-OpenSSH\r\n\r\n",), then="close"), stream=False
    )
    assert type(error) is UpstreamError


@pytest.mark.parametrize("then", ["reset", "close"])
async def test_a_stream_that_breaks_off(connections: httpx.AsyncBaseTransport, then: Any) -> None:
    error = await fails(connections, events(delta("a"), ends=False, then=then), stream=True)
    assert type(error) is UpstreamError


async def test_a_stream_that_ends_too_early(connections: httpx.AsyncBaseTransport) -> None:
    for answer in (events(delta("a")), events(delta("a"), "[DONE]"), events(b'data: {"cho')):
        error = await fails(connections, answer, stream=True)
        assert type(error) is UpstreamError


async def test_what_breaks_after_the_end_does_not_matter(
    connections: httpx.AsyncBaseTransport,
) -> None:
    answer = events(*HELLO, "[DONE]", ends=False, then="reset")
    async with FakeProvider([answer]) as provider:
        assert isinstance((await listen(model(connections, provider.base_url)))[-1], Done)
    answer = whole(json_bytes("fine"), then="reset")
    async with FakeProvider([answer]) as provider:
        done = await model(connections, provider.base_url).complete(ASK, Call())
    assert done.text == "fine"


def json_bytes(text: str) -> bytes:
    _, _, body = said(text).pieces[0].partition(b"\r\n\r\n")
    return body


# Time


@both
@pytest.mark.parametrize("pieces", [(), CUT])
async def test_a_provider_that_hangs_runs_out_of_time(
    connections: httpx.AsyncBaseTransport, stream: bool, pieces: tuple[bytes, ...]
) -> None:
    answer = Answer(pieces, then="hang")
    if pieces and stream:
        answer = events(delta("a"), ends=False, then="hang")
    error = await fails(connections, answer, stream=stream, timeout_s=0.05)
    assert isinstance(error, DeadlineExceeded)


async def test_a_slow_drip_does_not_stretch_the_deadline(
    connections: httpx.AsyncBaseTransport,
) -> None:
    drip = events(*[delta("x")] * 100, pause_s=0.01)
    error = await fails(connections, drip, stream=True, timeout_s=0.1)
    assert isinstance(error, DeadlineExceeded)


async def test_the_callers_deadline_counts_if_it_is_sooner(
    connections: httpx.AsyncBaseTransport,
) -> None:
    async with FakeProvider([Answer(then="hang")]) as provider:
        spec = OpenAIModel(engine="openai", base_url=provider.base_url, timeout_s=60)
        chat = Flagship("big", spec, connections, clock=FakeClock(now=1000), environ={})
        with pytest.raises(DeadlineExceeded, match=r"0\.1 s"):
            await chat.complete(ASK, Call(deadline=1000.1))
        with pytest.raises(DeadlineExceeded, match="has passed"):
            await chat.complete(ASK, Call(deadline=999))
    assert len(provider.asked) == 1


async def test_the_deadline_does_not_cancel_a_slow_reader(
    connections: httpx.AsyncBaseTransport,
) -> None:
    answer = events(delta("a"), ends=False, then="hang")
    async with FakeProvider([answer]) as provider:
        chat = model(connections, provider.base_url, timeout_s=0.05)
        with pytest.raises(DeadlineExceeded):
            async for _ in chat.stream(ASK, Call()):
                await asyncio.sleep(0.1)


# Who goes away


@both
async def test_cancelling_closes_the_connection(
    connections: httpx.AsyncBaseTransport, stream: bool
) -> None:
    async with FakeProvider([Answer(then="hang")]) as provider:
        chat = model(connections, provider.base_url)
        task = asyncio.ensure_future(listen(chat) if stream else chat.complete(ASK, Call()))
        await until(lambda: provider.asked)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: provider.hung_up)


async def test_closing_the_stream_closes_the_connection(
    connections: httpx.AsyncBaseTransport,
) -> None:
    async with FakeProvider([events(delta("a"), ends=False, then="hang")]) as provider:
        stream = model(connections, provider.base_url).stream(ASK, Call())
        async with aclosing(stream) as answer:
            assert await anext(answer) == TextDelta("a")
        await until(lambda: provider.hung_up)


async def until(happened: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not happened():  # noqa: ASYNC110  # the peer is a socket, not a task of ours
            await asyncio.sleep(0.001)


async def test_after_the_connections_are_closed_nothing_is_asked() -> None:
    connections = new_connections()
    await connections.aclose()
    with pytest.raises(Unavailable):
        await model(connections, "http://127.0.0.1:1/v1").complete(ASK, Call())
