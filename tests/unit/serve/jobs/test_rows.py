"""Lines of a batch's input: two forms, strict reading, and names by content."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadRequest, FusionError
from serve.jobs import rows
from serve.jobs.rows import Lines, content_key, read_id, read_row


def encoded(**line: Any) -> bytes:
    return json.dumps(line).encode()


BODY = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 5}


def test_both_forms_ask_the_same() -> None:
    short = read_row(encoded(id="a", prompt="Why?", max_tokens=5), "m")
    long = read_row(encoded(custom_id="b", method="POST", url=rows.ENDPOINT, body=BODY), "m")
    assert short.request == long.request
    assert content_key(short.request, "m") == content_key(long.request, "m")
    assert (short.id, long.id) == ("a", "b")


def test_the_short_form_takes_a_system_text_messages_and_its_own_model() -> None:
    row = read_row(encoded(id=7, system="Be brief.", prompt="Why?", model="mine"), "m")
    assert (row.id, row.request.model) == ("7", "mine")
    assert [message.role for message in row.request.messages] == ["system", "user"]
    again = read_row(encoded(id=7, messages=[{"role": "user", "content": "x"}]), "m")
    assert again.request.messages[0].text == "x"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "too deeply"),
        (b"3", "not a JSON object"),
        (encoded(prompt="x"), "'id'"),
        (encoded(id="", prompt="x"), "'id'"),
        (encoded(id=True, prompt="x"), "'id'"),
        (encoded(id="a"), "neither 'prompt' nor 'messages'"),
        (encoded(id="a", prompt="x", messages=[]), "without 'messages'"),
        (encoded(id="a", prompt="x", sample="1"), "'sample'"),
        (encoded(id="a", prompt="x", stream=True), "does not stream"),
        (encoded(id="a", prompt="x", wish=1), "wish"),
        (encoded(id="a", prompt="x", temperature=9), "temperature"),
        (encoded(id="a", prompt="x", fusion={"session_id": "s"}), "no session"),
        (encoded(id="a", prompt="x", fusion={"approval_wait_s": 5}), "approval_wait_s"),
        (encoded(custom_id="a"), "'body'"),
        (encoded(custom_id="a", url="/v1/embeddings", body=BODY), "'url'"),
        (encoded(custom_id="a", url=[], body=BODY), "'url'"),
        (encoded(custom_id="a", url={}, body=BODY), "'url'"),
        (b'{"id": "\\ud83d", "prompt": "x"}', "no store can keep"),
        (b'{"id": "a\\u0000", "prompt": "x"}', "no store can keep"),
        (encoded(custom_id="a", method="GET", body=BODY), "'method'"),
    ],
)
def test_what_cannot_be_read_says_why(line: bytes, said: str) -> None:
    with pytest.raises(FusionError, match=said):
        read_row(line, "m")


def test_a_line_that_is_too_long_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows, "MAX_LINE", 100)
    with pytest.raises(BadRequest, match="100 is the most"):
        read_row(encoded(id="a", prompt="x" * 100), "m")


def test_what_matters_changes_the_key() -> None:
    base = read_row(encoded(id="a", prompt="Why?"), "m").request
    keys = {
        content_key(base, "m"),
        content_key(base, "other"),
        content_key(base, "m", sample=1),
        content_key(read_row(encoded(id="a", prompt="Why not?"), "m").request, "m"),
        content_key(read_row(encoded(id="a", prompt="Why?", temperature=0), "m").request, "m"),
    }
    quality = [{"quality": 0.0}, {"quality": 1.0}]
    keys |= {
        content_key(read_row(encoded(id="a", prompt="Why?", fusion=one), "m").request, "m")
        for one in quality
    }
    assert len(keys) == 7


def test_an_id_is_read_where_the_rest_is_wrong() -> None:
    assert read_id(encoded(id="a", wish=1)) == "a"
    assert read_id(encoded(custom_id="b", body=3)) == "b"
    with pytest.raises(BadRequest):
        read_id(b"{")


@given(
    st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line), max_size=8),
    st.integers(1, 7),
    st.booleans(),
)
def test_lines_are_where_they_say_however_the_file_comes(
    made: list[bytes], size: int, ended: bool
) -> None:
    whole = b"\n".join(made) + (b"\n" if ended else b"")
    lines, found = Lines(), []
    for start in range(0, len(whole), size):
        found += lines.feed(whole[start : start + size])
    found += lines.end()
    assert [line.data for line in found] == [line for line in made if line.strip()]
    assert [line.number for line in found] == [n for n, one in enumerate(made, 1) if one.strip()]
    assert all(whole[one.start : one.start + len(one.data)] == one.data for one in found)


def test_a_line_without_an_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINE", 50)
    lines = Lines()
    for _ in range(100):
        assert not list(lines.feed(b"x" * 30))
        assert len(lines._rest) <= 51
    found = [*lines.feed(b"\nshort\n"), *lines.end()]
    assert [(len(one.data), one.number, one.start) for one in found] == [(51, 1, 0), (5, 2, 3001)]
