"""What each dialect does over HTTP, beside what `test_openai_chat` shows of the first."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from models.call import Call
from models.errors import AccountRefused, Unavailable, UpstreamError
from models.flagship.answerer import Flagship
from models.flagship.client import new_connections
from models.flagship.fake import FakeProvider, events, said, whole
from models.messages import (
    Done,
    Message,
    Reasoning,
    Request,
    Sampling,
    Text,
    TextDelta,
    user,
)
from models.spec import AnthropicModel, ModelSpec, OpenAIModel

KEY = "sk-planted-0123456789"
ASK = Request("big", (user("what is this"),))


@pytest.fixture
async def connections() -> AsyncIterator[httpx.AsyncBaseTransport]:
    async with new_connections() as connections:
        yield connections


def model(connections: httpx.AsyncBaseTransport, provider: FakeProvider, **spec: Any) -> Flagship:
    entry = {"base_url": provider.base_url, "api_key_env": "BIG_KEY", **spec}
    known: Any = TypeAdapter(ModelSpec).validate_python(entry)
    return Flagship("big", known, connections, environ={"BIG_KEY": KEY})


RESPONSE = {
    "id": "resp_1",
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "hello"}]}],
}
MESSAGE = {"id": "msg_1", "content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn"}
WHOLE = {"openai-responses": RESPONSE, "anthropic": MESSAGE}
STREAMS: dict[str, tuple[dict[str, Any], ...]] = {
    "openai-responses": (
        {"type": "response.output_text.delta", "delta": "hello"},
        {"type": "response.completed", "response": RESPONSE},
    ),
    "anthropic": (
        {"type": "message_start", "message": {"id": "msg_1"}},
        {"type": "content_block_delta", "index": 0, "delta": {"text": "hello"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ),
}
each = pytest.mark.parametrize("engine", list(WHOLE))


@each
async def test_where_it_asks_and_with_which_headers(
    connections: httpx.AsyncBaseTransport, engine: str
) -> None:
    async with FakeProvider([whole(WHOLE[engine])]) as provider:
        done = await model(connections, provider, engine=engine).complete(ASK, Call())
    assert done.text == "hello"
    [asked] = provider.asked
    if engine == "anthropic":
        assert asked.path == "/v1/messages"
        assert asked.headers["x-api-key"] == KEY
        assert asked.headers["anthropic-version"]
    else:
        assert asked.path == "/v1/responses"
        assert asked.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("base_url", "bearer"),
    [("https://api.anthropic.com/v1", False), ("https://other.example/v1", True)],
)
async def test_only_others_get_anthropics_key_where_openai_has_it(
    base_url: str, bearer: bool
) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=MESSAGE)

    async with httpx.MockTransport(answer) as connections:
        spec = AnthropicModel(engine="anthropic", base_url=base_url, api_key_env="BIG_KEY")
        await Flagship("big", spec, connections, environ={"BIG_KEY": KEY}).complete(ASK, Call())
    assert asked[0].headers["x-api-key"] == KEY
    assert ("authorization" in asked[0].headers) == bearer


@each
async def test_a_stream_ends_with_its_last_event_and_leaves_the_connection_free(
    connections: httpx.AsyncBaseTransport, engine: str
) -> None:
    async with FakeProvider([events(*STREAMS[engine])]) as provider:
        big = model(connections, provider, engine=engine)
        for _ in range(2):
            *deltas, done = [event async for event in big.stream(ASK, Call())]
            assert deltas == [TextDelta("hello")]
            assert isinstance(done, Done)
    assert provider.connections == 1


@each
async def test_what_comes_after_the_last_event_is_not_waited_for(
    connections: httpx.AsyncBaseTransport, engine: str
) -> None:
    async with FakeProvider([events(*STREAMS[engine], ends=False, then="hang")]) as provider:
        big = model(connections, provider, engine=engine)
        assert [event async for event in big.stream(ASK, Call())]


@each
async def test_an_error_in_the_middle_of_a_stream(
    connections: httpx.AsyncBaseTransport, engine: str
) -> None:
    inside = {"type": "overloaded_error", "message": "Too much."}
    error = {"type": "error", "error": inside}
    if engine == "openai-responses":
        error = {"type": "error", "code": "overloaded", "message": "Too much."}
    async with FakeProvider([events(STREAMS[engine][0], error)]) as provider:
        with pytest.raises(Unavailable, match="Too much"):
            async for _ in model(connections, provider, engine=engine).stream(ASK, Call()):
                pass


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("engine", ["openai", *WHOLE])
@pytest.mark.parametrize(
    ("status", "code"), [(401, None), (402, None), (429, "insufficient_quota")]
)
async def test_a_refused_account_says_which_variable_to_check(
    connections: httpx.AsyncBaseTransport, engine: str, status: int, code: str | None, stream: bool
) -> None:
    body = {"error": {"message": f"Bad key {KEY}", "code": code}}
    async with FakeProvider([whole(body, status)]) as provider:
        big = model(connections, provider, engine=engine)
        with pytest.raises(AccountRefused, match="BIG_KEY") as caught:
            if stream:
                async for _ in big.stream(ASK, Call()):
                    pass
            else:
                await big.complete(ASK, Call())
    assert KEY not in repr(caught.value)


async def test_also_where_the_refusal_stands_within_a_streamed_response(
    connections: httpx.AsyncBaseTransport,
) -> None:
    failed = {"status": "failed", "error": {"code": "insufficient_quota", "message": "No."}}
    answer = events({"type": "response.failed", "response": failed})
    async with FakeProvider([answer]) as provider:
        big = model(connections, provider, engine="openai-responses")
        with pytest.raises(AccountRefused, match="BIG_KEY"):
            async for _ in big.stream(ASK, Call()):
                pass


@pytest.fixture(autouse=True)
def key_grep(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, the planted key is in no log."""
    caplog.set_level(logging.DEBUG)
    yield
    assert KEY not in caplog.text


@pytest.mark.parametrize("engine", ["openai", *WHOLE])
async def test_the_key_shows_nowhere(connections: httpx.AsyncBaseTransport, engine: str) -> None:
    async with FakeProvider([whole({"error": {"message": KEY, "param": KEY}}, 500)]) as provider:
        big = model(connections, provider, engine=engine)
        with pytest.raises(UpstreamError) as caught:
            await big.complete(ASK, Call())
    shown = f"{big!r} {vars(big)} {vars(big._transport)} {caught.value!r} {vars(caught.value)}"
    assert KEY not in shown


@pytest.mark.parametrize("engine", ["openai", *WHOLE])
async def test_no_redirect_takes_the_key_along(
    connections: httpx.AsyncBaseTransport, engine: str
) -> None:
    async with FakeProvider([said("stolen")]) as other:
        there = {"location": f"{other.base_url}/x"}
        async with FakeProvider([whole({}, 307, there)]) as provider:
            with pytest.raises(UpstreamError, match="redirects"):
                await model(connections, provider, engine=engine).complete(ASK, Call())
        assert other.connections == 0


@pytest.mark.parametrize("engine", ["openai", *WHOLE])
async def test_a_model_that_takes_no_temperature_gets_none(
    connections: httpx.AsyncBaseTransport, engine: str
) -> None:
    request = replace(ASK, sampling=Sampling(temperature=0.0, top_p=0.5, seed=1, max_tokens=9))
    for sampling in (True, False):
        answer = said("hello") if engine == "openai" else whole(WHOLE[engine])
        async with FakeProvider([answer]) as provider:
            await model(connections, provider, engine=engine, sampling=sampling).complete(
                request, Call()
            )
        body = provider.asked[0].body
        assert ("temperature" in body, "top_p" in body) == (sampling, sampling)
        assert 9 in body.values()


async def test_thoughts_go_back_to_those_who_take_them() -> None:
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(503)

    thought = Message("assistant", (Text("Hi."),), reasoning=(Reasoning("Hm."),))
    request = replace(ASK, messages=(*ASK.messages, thought))
    async with httpx.MockTransport(answer) as connections:
        for url, thoughts in (
            ("https://api.openai.com/v1", True),
            ("https://other.example/v1", True),
            ("https://other.example/v1", False),
        ):
            spec = OpenAIModel(engine="openai", base_url=url, thoughts=thoughts)
            with pytest.raises(Unavailable):
                await Flagship("big", spec, connections, environ={}).complete(request, Call())
    assert [b"reasoning_content" in body for body in bodies] == [False, True, False]


# Ids for the provider's support


@pytest.mark.parametrize("header", ["x-request-id", "request-id"])
async def test_the_headers_id_is_kept(connections: httpx.AsyncBaseTransport, header: str) -> None:
    async with FakeProvider([whole(MESSAGE, headers={header: "req_7"})]) as provider:
        done = await model(connections, provider, engine="anthropic").complete(ASK, Call())
    assert done.request_id == "req_7"


@each
async def test_else_the_bodys(connections: httpx.AsyncBaseTransport, engine: str) -> None:
    async with FakeProvider([events(*STREAMS[engine])]) as provider:
        big = model(connections, provider, engine=engine)
        done = [event async for event in big.stream(ASK, Call())][-1]
    assert isinstance(done, Done)
    assert (
        done.completion.request_id == {"openai-responses": "resp_1", "anthropic": "msg_1"}[engine]
    )


async def test_a_chat_has_one_too(connections: httpx.AsyncBaseTransport) -> None:
    async with FakeProvider([said("hello")]) as provider:
        done = await model(connections, provider, engine="openai").complete(ASK, Call())
    assert done.request_id == "up-1"
