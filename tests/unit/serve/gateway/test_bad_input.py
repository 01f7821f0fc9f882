"""What is no request, in every dialect: any bytes and any JSON are a request or a clear 400."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import httpx
import pytest
from doorway import Doorway
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from models.errors import BadRequest, FusionError
from serve.dialects import chat, messages, responses
from serve.dialects.chat.request import Body as ChatBody
from serve.dialects.messages.request import Body as MessagesBody
from serve.dialects.responses.request import Body as ResponsesBody

TURNS = [{"role": "user", "content": "hi"}]
DIALECTS: dict[str, tuple[str, ModuleType, type[BaseModel], dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", chat, ChatBody, {"model": "m", "messages": TURNS}),
    "responses": ("/v1/responses", responses, ResponsesBody, {"model": "m", "input": "hi"}),
    "messages": (
        "/v1/messages",
        messages,
        MessagesBody,
        {"model": "m", "messages": TURNS, "max_tokens": 9},
    ),
}
every = pytest.mark.parametrize("name", DIALECTS)
quick = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("type", "role", "content", "text", "name", "id")), inner, max_size=4
        )
    ),
    max_leaves=6,
)


@every
@quick
@given(raw=st.binary(max_size=200))
def test_any_bytes(name: str, raw: bytes) -> None:
    try:
        DIALECTS[name][1].parse(raw)
    except BadRequest as error:
        assert error.message


@every
@quick
@given(data=st.data())
def test_any_json(name: str, data: st.DataObject) -> None:
    _, dialect, body, least = DIALECTS[name]
    fields = st.dictionaries(st.sampled_from(sorted(body.model_fields)), ANY, max_size=3)
    try:
        dialect.parse(json.dumps(least | data.draw(fields)).encode())
    except FusionError as error:
        assert error.status == 400


@every
@pytest.mark.parametrize("depth", [100, 250, 100_000])
def test_json_of_any_depth(name: str, depth: int) -> None:
    _, dialect, _, least = DIALECTS[name]
    deep = "[" * depth + "]" * depth
    with pytest.raises(BadRequest):
        dialect.parse((json.dumps(least)[:-1] + f', "tools": {deep}}}').encode())


@every
def test_of_many_mistakes_in_a_row_one_is_enough(name: str) -> None:
    """A short body of a million zeros would hold all others up, and take gigabytes."""
    _, _, body, least = DIALECTS[name]
    zeros = [0] * 100
    turns = [{"role": "user", "content": zeros}]
    said = [
        {said: some}
        for said in ("messages", "input")
        for some in (zeros, turns)
        if said in body.model_fields
    ]
    rows = {"tools", "plugins", "stop", "stop_sequences", "system"}
    said += [{field: zeros} for field in rows & body.model_fields.keys()]
    for bad in said:
        with pytest.raises(ValidationError) as caught:
            body.model_validate_json(json.dumps(least | bad))
        # One for each form that the field may have, and that its row is none without it.
        assert caught.value.error_count() <= 3


@every
def test_a_thousand_mistakes_are_not_looked_through(name: str) -> None:
    _, dialect, _, least = DIALECTS[name]
    unknown = {f"x{number}": 0 for number in range(1001)}
    with pytest.raises(BadRequest, match="more than 1000 mistakes"):
        dialect.parse(json.dumps(least | unknown).encode())


@every
def test_a_long_name_is_cut(name: str) -> None:
    _, dialect, _, least = DIALECTS[name]
    with pytest.raises(BadRequest) as caught:
        dialect.parse(json.dumps(least | {"x" * 100_000: 0}).encode())
    assert caught.value.param == "x" * 300


@every
@pytest.mark.parametrize(
    ("raw", "status", "words"),
    [
        (b"\xff\xfe{}", 400, "UTF-8"),
        (b'{"model": "\\ud800"}', 400, "JSON"),
        (b'{"model": ', 400, "JSON"),
        (b"", 400, "JSON"),
        (b"[]", 400, "Invalid body"),
        (b"null", 400, "Invalid body"),
        (b'{"model": 5}', 400, "model"),
        (b"x" * 10_000_000, 413, "larger than 1 MB"),
    ],
    ids=["utf8", "surrogate", "half", "empty", "list", "null", "number", "10MB"],
)
def test_raw_bodies(doorway: Doorway, name: str, raw: bytes, status: int, words: str) -> None:
    response = httpx.post(doorway.url + DIALECTS[name][0], content=raw, timeout=20)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]


@every
def test_a_model_may_write_halves_of_characters(doorway: Doorway, name: str) -> None:
    path, _, _, least = DIALECTS[name]
    doorway.says("half \ud83d of one")
    for stream in (False, True):
        response = httpx.post(doorway.url + path, json=least | {"stream": stream}, timeout=20)
        assert response.status_code == 200
        assert "half ? of one" in response.text or '" ?"' in response.text
