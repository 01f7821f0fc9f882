"""Tools for a model that has no way of its own to call them: a protocol of plain text. Pure.

`ask` tells the model how to call, and turns earlier calls and results into text; `read` takes
the calls out of an answer. What a model writes badly is repaired as far as that is safe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from models.call import new_id
from models.messages import Message, Named, Request, Text, Tool, ToolCall
from models.wrappers import loose_json
from models.wrappers.marks import Splitter
from models.wrappers.profiles import Marks, Profile

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_HOW = f"""You can call tools. To call one, write exactly this, and then nothing more:
{OPEN}{{"name": "<the tool's name>", "arguments": {{<its arguments as JSON>}}}}{CLOSE}
Write several of these to call several tools. Their results come in the next message. When you
need no tool, answer without {OPEN}.

The tools, each with the JSON schema of its arguments:
"""


def ask(request: Request) -> Request:
    """The same request without tools, for a model that is told about them in words."""
    messages = tuple(_turn(message) for message in request.messages)
    if request.tools and request.tool_choice != "none":
        messages = instructed(messages, _how(request))
    return replace(request, messages=messages, tools=(), tool_choice=None, parallel_tool_calls=None)


def instructed(messages: tuple[Message, ...], words: str) -> tuple[Message, ...]:
    """With these words behind the first instruction, or as the first one."""
    if messages and messages[0].role in ("system", "developer"):
        first = messages[0]
        told = replace(first, content=(*first.content, Text("\n\n" + words)))
        return (told, *messages[1:])
    return (Message("system", (Text(words),)), *messages)


def _how(request: Request) -> str:
    lines = [_described(tool) for tool in request.tools]
    if isinstance(request.tool_choice, Named):
        lines.append(f"Call the tool {request.tool_choice.name} now.")
    elif request.tool_choice == "required":
        lines.append("Call at least one tool now.")
    if request.parallel_tool_calls is False:
        lines.append("Call one tool at a time.")
    return _HOW + "\n".join(lines)


def _described(tool: Tool) -> str:
    known = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    return json.dumps(known, ensure_ascii=False)


def _turn(message: Message) -> Message:
    """An earlier turn as such a model would have written or read it."""
    if message.role == "tool":
        failed = ' failed="true"' if message.is_error else ""
        text = (
            f'<tool_result id="{message.tool_call_id or ""}"{failed}>{message.text}</tool_result>'
        )
        return Message("user", (Text(text),))
    if not message.tool_calls:
        return message
    calls = "\n".join(_written(call) for call in message.tool_calls)
    return replace(message, content=(*message.content, Text(calls)), tool_calls=())


def _written(call: ToolCall) -> str:
    arguments = loose_json.read(call.arguments).value
    return (
        OPEN + json.dumps({"name": call.name, "arguments": arguments}, ensure_ascii=False) + CLOSE
    )


def marks(profile: Profile) -> Marks:
    """What may stand around a call: the family's own marks, and those that `ask` teaches."""
    taught = (OPEN, CLOSE)
    return profile.calls if taught in profile.calls else (*profile.calls, taught)


def read(text: str, tools: Sequence[Tool], profile: Profile) -> tuple[str, tuple[ToolCall, ...]]:
    """The text without the calls in it, and the calls. Marks around anything but the call of a
    tool that there is stay where they are."""
    splitter = Splitter(marks(profile))
    said: list[str] = []
    calls: list[ToolCall] = []
    inside = ""
    for piece in (*splitter.feed(text), *splitter.finish()):
        if piece.kind == "text":
            said.append(piece.text)
        elif piece.kind == "inside":
            inside += piece.text
        else:
            found, inside = called(inside, tools, profile), ""
            calls += found
    if inside:
        # The closing mark was forgotten, or stood outside of the bound of the answer.
        calls += called(inside, tools, profile)
    if not calls:
        return text, ()
    return "".join(said).strip(), tuple(calls)


def called(text: str, tools: Sequence[Tool], profile: Profile) -> tuple[ToolCall, ...]:
    """The calls in what stands between two marks; none if it is nothing that can be called.

    Their ids are unlike those of all earlier turns, so that each result finds its call.
    """
    value = loose_json.read(text).value
    known = {tool.name for tool in tools}
    calls: list[ToolCall] = []
    for item in value if isinstance(value, list) else [value]:
        for name, arguments in _named(item, profile):
            if name in known:
                calls.append(ToolCall(new_id("call"), name, arguments))
    return tuple(calls)


def _named(item: Any, profile: Profile) -> Iterator[tuple[str, str]]:
    if not isinstance(item, dict):
        return
    name = next((item[key] for key in profile.name if key in item), None)
    if isinstance(name, dict):
        # As OpenAI nests it: {"function": {"name": ..., "arguments": ...}}.
        yield from _named(name, profile)
        return
    given: Any = next((item[key] for key in profile.arguments if key in item), {})
    if isinstance(name, str):
        yield name, given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
