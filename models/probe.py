"""What a model can really do: one round trip for each ability."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from models.answerer import Answerer, Clock, SystemClock
from models.call import Call
from models.errors import FusionError
from models.messages import (
    Done,
    ReasoningDelta,
    Request,
    ResponseFormat,
    Sampling,
    TextDelta,
    Tool,
    user,
)

#: Enough to answer, and to think a little before.
MAX_TOKENS = 256
ADD = Tool(
    "add",
    "Adds two whole numbers.",
    {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "minimum": 0, "maximum": 99},
            "b": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
    },
)
COLOUR = ResponseFormat(
    "json_schema",
    "colour",
    {
        "type": "object",
        "properties": {"colour": {"type": "string", "enum": ["red", "green", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    },
)


@dataclass(frozen=True, slots=True)
class Found:
    """What came of one round trip: `detail` is a piece of the answer, or what went wrong."""

    ability: str
    works: bool
    seconds: float
    detail: str


async def probe(model: Answerer, name: str, clock: Clock | None = None) -> list[Found]:
    """Try each ability of `model`, which is called `name`, one after the other."""
    time = clock or SystemClock()
    found = []
    for ability, attempt in ABILITIES.items():
        start = time.now()
        try:
            detail, works = await attempt(model, name), True
        except Lacking as lack:
            detail, works = str(lack), False
        except FusionError as error:
            detail, works = f"{error.code}: {error.message}", False
        found.append(Found(ability, works, round(time.now() - start, 3), " ".join(detail.split())))
    return found


class Lacking(Exception):
    """The model answered, and not as it should have."""


async def _plain(model: Answerer, name: str) -> str:
    answer = await model.complete(_asking(name, "Say hello in one sentence."), Call())
    if not (answer.text or answer.message.thought):
        raise Lacking("it answered without a word")
    if not answer.usage.output:
        raise Lacking("it answered without counting its tokens")
    return answer.text


async def _stream(model: Answerer, name: str) -> str:
    pieces = ended = 0
    said = ""
    async with aclosing(model.stream(_asking(name, "Count from one to ten."), Call())) as events:
        async for event in events:
            pieces += isinstance(event, TextDelta | ReasoningDelta)
            said += event.text if isinstance(event, TextDelta) else ""
            ended += isinstance(event, Done)
    if not pieces or not ended:
        raise Lacking(f"it streamed {pieces} pieces and {ended} ends")
    return f"{pieces} pieces: {said}"


async def _tools(model: Answerer, name: str) -> str:
    request = _asking(name, "What is 2 plus 3? Use the tool.", tools=(ADD,), tool_choice="required")
    answer = await model.complete(request, Call())
    calls = answer.message.tool_calls
    if not calls:
        raise Lacking(f"it called no tool and said: {answer.text[:200]}")
    try:
        arguments = json.loads(calls[0].arguments)
    except ValueError:
        raise Lacking(f"its arguments are not JSON: {calls[0].arguments[:200]}") from None
    if calls[0].name != "add" or not isinstance(arguments, dict) or {"a", "b"} - set(arguments):
        raise Lacking(f"it called {calls[0].name}({calls[0].arguments[:200]})")
    return f"add({calls[0].arguments})"


async def _json(model: Answerer, name: str) -> str:
    request = _asking(name, "Which colour has the sky?", response_format=COLOUR)
    answer = await model.complete(request, Call())
    try:
        value = json.loads(answer.text)
    except ValueError:
        raise Lacking(f"it is not JSON: {answer.text[:200]}") from None
    if not isinstance(value, dict) or value.get("colour") not in ("red", "green", "blue"):
        raise Lacking(f"it does not follow the schema: {answer.text[:200]}")
    return answer.text


def _asking(name: str, question: str, **fields: object) -> Request:
    sampling = Sampling(max_tokens=MAX_TOKENS)
    # The checker cannot see that the callers above name only fields of a request.
    return Request(name, (user(question),), sampling, **fields)  # type: ignore[arg-type]


ABILITIES: dict[str, Callable[[Answerer, str], Awaitable[str]]] = {
    "plain": _plain,
    "stream": _stream,
    "tools": _tools,
    "JSON": _json,
}
