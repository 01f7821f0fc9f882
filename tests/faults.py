"""What goes wrong at a provider, in each dialect, whole and streamed; and what a caller sees of it.

.venv/bin/python tests/faults.py      prints the table
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import TypeAdapter

from models.answerer import Answerer, SystemClock
from models.call import Call
from models.errors import FusionError
from models.flagship.answerer import Flagship
from models.flagship.client import new_connections
from models.flagship.fake import Answer, FakeProvider, events, whole
from models.messages import Done, Request, user
from models.spec import ModelSpec
from models.wrappers.retry import Retry

ENGINES = ("openai", "openai-responses", "anthropic")
ASK = Request("big", (user("what is this"),))
#: Long enough on a busy machine, and short for the faults that use it up.
TIMEOUT_S, SHORT_S = 20.0, 0.1

_RESPONSE = {
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "hello"}]}],
}
#: A good answer of each dialect, whole and as a stream.
WHOLE: dict[str, dict[str, Any]] = {
    "openai": {"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]},
    "openai-responses": _RESPONSE,
    "anthropic": {"content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn"},
}
STREAM: dict[str, tuple[Any, ...]] = {
    "openai": (
        {"choices": [{"delta": {"content": "hello"}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        "[DONE]",
    ),
    "openai-responses": (
        {"type": "response.output_text.delta", "delta": "hello"},
        {"type": "response.completed", "response": _RESPONSE},
    ),
    "anthropic": (
        {"type": "content_block_delta", "index": 0, "delta": {"text": "hello"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ),
}


Fault = Callable[[str, bool], Answer]


def _error(status: int, headers: dict[str, str] | None = None, **detail: str) -> Fault:
    body = {"error": {"message": "Because.", **detail}}
    answer = whole(body, status, headers)
    return lambda engine, stream: answer


def _cut(engine: str, stream: bool) -> Answer:
    if stream:
        return events(STREAM[engine][0], ends=False, then="reset")
    head = whole(WHOLE[engine], headers={"content-length": "9999"}).pieces
    return Answer(head, then="reset")


def _after(engine: str, stream: bool) -> Answer:
    if stream:
        return events(*STREAM[engine], ends=False, then="reset")
    return whole(WHOLE[engine], then="reset")


def _drip(pause_s: float) -> Fault:
    def drip(engine: str, stream: bool) -> Answer:
        if stream:
            return events(*STREAM[engine], pause_s=pause_s)
        [raw] = whole(WHOLE[engine]).pieces
        half = len(raw) // 2
        return Answer((raw[:half], raw[half:-1], raw[-1:]), pause_s=pause_s)

    return drip


def _truncated(engine: str, stream: bool) -> Answer:
    if stream:
        return events(STREAM[engine][0])
    return whole(b'{"choices": [{"mess')


def _garbage(engine: str, stream: bool) -> Answer:
    return events("{not json") if stream else whole(b"{not json")


def _endless(engine: str, stream: bool) -> Answer:
    if stream:
        return events(*[STREAM[engine][0]] * 100, pause_s=0.01, ends=False, then="hang")
    return Answer(whole(WHOLE[engine], headers={"content-length": "9999"}).pieces, then="hang")


FAULTS: dict[str, Fault] = {
    "none": lambda engine, stream: events(*STREAM[engine]) if stream else whole(WHOLE[engine]),
    "connection refused": lambda engine, stream: Answer(),
    "reset before the body": lambda engine, stream: Answer(then="reset"),
    "reset in the body": _cut,
    "reset after the body": _after,
    "slow drip, in time": _drip(0.01),
    "slow drip, too slow": _drip(0.2),
    "429 with Retry-After": _error(429, {"retry-after": "3"}),
    "429 with a long Retry-After": _error(429, {"retry-after": "600"}),
    "429 without Retry-After": _error(429),
    "429 for lack of money": _error(429, code="insufficient_quota"),
    "401": _error(401),
    "500": _error(500),
    "529": _error(529),
    "truncated": _truncated,
    "invalid JSON": _garbage,
    "wrong content type": lambda engine, stream: whole(
        b"<p>Log in</p>", headers={"content-type": "text/html"}
    ),
    "never ends": _endless,
    "200 with an error body": lambda engine, stream: whole(
        {"error": {"message": "Too much.", "type": "overloaded_error"}}
    ),
    "redirect": lambda engine, stream: whole({}, 307, {"location": "http://127.0.0.1:1/"}),
}
#: Only time ends these.
ENDLESS = ("slow drip, too slow", "never ends")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a caller saw, and how often the provider was asked for it."""

    what: str
    asked: int

    def __str__(self) -> str:
        return f"{self.what}, asked {self.asked}x"


class _Hurried(SystemClock):
    """Nobody waits between attempts."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


async def seen(
    connections: httpx.AsyncBaseTransport, fault: str, engine: str, stream: bool
) -> Seen:
    """Ask once, with retries, a provider that always has this fault."""
    async with FakeProvider([FAULTS[fault](engine, stream)]) as provider:
        url = "http://127.0.0.1:9/v1" if fault == "connection refused" else provider.base_url
        seconds = SHORT_S if fault in ENDLESS else TIMEOUT_S
        entry = {"engine": engine, "base_url": url, "timeout_s": seconds}
        flagship = Flagship("big", TypeAdapter(ModelSpec).validate_python(entry), connections)
        counted = _Counted(flagship)
        model = Retry(counted, clock=_Hurried())
        try:
            text = await _listen(model) if stream else (await model.complete(ASK, Call())).text
            what = "the answer" if text == "hello" else f"{text!r}"
        except FusionError as error:
            what = f"{error.status} {error.code}"
        return Seen(what, counted.asked)


class _Counted:
    def __init__(self, inner: Answerer) -> None:
        self._inner = inner
        self.asked = 0

    async def complete(self, request: Request, call: Call) -> Any:
        self.asked += 1
        return await self._inner.complete(request, call)

    def stream(self, request: Request, call: Call) -> Any:
        self.asked += 1
        return self._inner.stream(request, call)


async def _listen(model: Answerer) -> str:
    text = ""
    async for event in model.stream(ASK, Call()):
        if isinstance(event, Done):
            text = event.completion.text
    return text


async def _print() -> None:
    columns = [(engine, stream) for engine in ENGINES for stream in (False, True)]
    heads = [f"{engine} {'stream' if stream else 'whole'}" for engine, stream in columns]
    print("| fault | " + " | ".join(heads) + " |")
    print("| --- " * (len(heads) + 1) + "|")
    async with new_connections() as connections:
        for fault in FAULTS:
            row = [
                str(await seen(connections, fault, engine, stream)) for engine, stream in columns
            ]
            print(f"| {fault} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    asyncio.run(_print())
