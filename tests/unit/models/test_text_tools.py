from __future__ import annotations

from typing import Any

import pytest

from models.messages import Message, Named, Request, Text, Tool, ToolCall, system, user
from models.wrappers import text_tools
from models.wrappers.profiles import profile_of

FIND = Tool("find", "Finds.", {"type": "object", "properties": {"q": {"type": "string"}}})
OTHER = profile_of("something")


def asked(*messages: Message, **fields: Any) -> Request:
    return text_tools.ask(Request("m", messages or (user("hi"),), tools=(FIND,), **fields))


def read(text: str, name: str = "something") -> tuple[str, list[tuple[str, str]]]:
    said, calls = text_tools.read(text, (FIND,), profile_of(name))
    return said, [(call.name, call.arguments) for call in calls]


def test_the_tools_are_told_in_words() -> None:
    request = asked(system("Be brief."), user("hi"))
    assert (request.tools, request.tool_choice) == ((), None)
    told = request.messages[0].text
    assert told.startswith("Be brief.\n\nYou can call tools.")
    assert '"name": "find"' in told
    assert asked().messages[0].role == "system"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tool_choice": Named("find")}, "Call the tool find now."),
        ({"tool_choice": "required"}, "Call at least one tool now."),
        ({"parallel_tool_calls": False}, "Call one tool at a time."),
    ],
)
def test_so_is_how_to_choose(fields: dict[str, Any], words: str) -> None:
    assert words in asked(**fields).messages[0].text


def test_who_must_call_none_hears_of_none() -> None:
    assert asked(tool_choice="none").messages == (user("hi"),)


def test_earlier_calls_and_results_become_text() -> None:
    request = asked(
        user("hi"),
        Message("assistant", (Text("Wait."),), tool_calls=(ToolCall("c1", "find", '{"q": 1}'),)),
        Message("tool", (Text("here"),), tool_call_id="c1", is_error=True),
    )
    _, _, called, result = request.messages
    assert called.tool_calls == ()
    assert called.text == 'Wait.<tool_call>{"name": "find", "arguments": {"q": 1}}</tool_call>'
    assert (result.role, result.text) == (
        "user",
        '<tool_result id="c1" failed="true">here</tool_result>',
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x", '<tool_call>{"name": "find", "arguments": {"q": "a"}}</tool_call>'),
        ("x", '<tool_call>{"name": "find", "arguments": {"q": "a"}}'),
        ("x", "<tool_call>\n```json\n{'name': 'find', 'arguments': {'q': 'a'},}\n```</tool_call>"),
        ("x", '<tool_call>{"function": {"name": "find", "arguments": {"q": "a"}}}</tool_call>'),
        ("x", '<tool_call>{"name": "find", "arguments": "{\\"q\\": \\"a\\"}"}</tool_call>'),
        ("Qwen3-8B", '<tool_call>{"name": "find", "arguments": {"q": "a"}}</tool_call>'),
        ("mistral-7b", '[TOOL_CALLS][{"name": "find", "arguments": {"q": "a"}}]'),
        ("llama-3.1", '<|python_tag|>{"name": "find", "parameters": {"q": "a"}}'),
        ("granite", '<|tool_call|>[{"name": "find", "arguments": {"q": "a"}}]'),
    ],
)
def test_a_call_is_read_as_each_family_writes_it(name: str, text: str) -> None:
    assert read(f"Well. {text}", name) == ("Well.", [("find", '{"q": "a"}')])


def test_several_calls() -> None:
    one = '<tool_call>{"name": "find", "arguments": {}}</tool_call>'
    _, calls = text_tools.read(one + "\n" + one, (FIND,), OTHER)
    _, later = text_tools.read(one, (FIND,), OTHER)
    # A result of this turn must not find a call of another.
    assert len({call.id for call in (*calls, *later)}) == 3


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "<tool_call>nonsense</tool_call>",
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '{"name": "find", "arguments": {}}',
        "<tool_call>[1, null]</tool_call>",
    ],
)
def test_what_calls_no_tool_that_there_is_stays_text(text: str) -> None:
    assert read(text) == (text, [])
