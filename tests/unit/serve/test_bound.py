"""The most that a call can use."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.messages import (
    Completion,
    Image,
    Message,
    Reasoning,
    Request,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
    assistant,
    user,
)
from serve.money.bound import answered, input_tokens, received_tokens, text_tokens


@given(st.text())
def test_a_text_is_never_more_tokens_than_bytes(text: str) -> None:
    assert text_tokens(text) >= len(text.encode("utf-8", "surrogatepass"))


def test_a_character_that_normalising_makes_longer_counts_as_what_it_becomes() -> None:
    assert text_tokens("\ufdfa") == 33  # three bytes, and eighteen characters after NFKC


def test_half_a_character_counts_too() -> None:
    assert text_tokens("\ud800") == 3


ASKED = Request("m", (user("a" * 100),))


@pytest.mark.parametrize(
    ("more", "least"),
    [
        (replace(ASKED, messages=(*ASKED.messages, user("b" * 50))), 50),
        (replace(ASKED, messages=(Message("user", (Text("a" * 100), Image("data:x"))),)), 7),
        (replace(ASKED, tools=(Tool("look", "d" * 30, {"type": "object"}),)), 48),
        (replace(ASKED, response_format=ResponseFormat("json_schema", schema={"k": "v" * 9})), 9),
        (replace(ASKED, messages=(*ASKED.messages, Message("tool", tool_call_id="i" * 90))), 90),
        (
            replace(
                ASKED,
                messages=(
                    *ASKED.messages,
                    Message("assistant", tool_calls=(ToolCall("i" * 90, "f", "{}"),)),
                ),
            ),
            90,
        ),
        (replace(ASKED, messages=(replace(user("a" * 100), reasoning=(Reasoning("t" * 9),)),)), 9),
    ],
)
def test_whatever_a_model_reads_counts(more: Request, least: int) -> None:
    assert input_tokens(more, 7) >= input_tokens(ASKED, 7) + least


def test_what_came_of_a_stream_is_at_most_its_bytes() -> None:
    assert received_tokens(ToolCallDelta(0, '{"a"', name="look")) == 8


def test_an_answer_that_says_no_usage_is_at_most_its_bytes_and_its_limit() -> None:
    message = replace(assistant("x" * 1000), tool_calls=(ToolCall("1", "look", "{}"),))
    assert answered(Completion("m", message), 40, 10_000).output >= 1006
    assert answered(Completion("m", message), 40, 700) == Usage(40, 700)
