"""Holds a permit while a call is under way."""

from __future__ import annotations

from contextlib import aclosing
from typing import Protocol

from models.answerer import Answerer, Events
from models.call import Call
from models.errors import RateLimited, Unavailable
from models.messages import Completion, Done, Image, Request, Text

#: What an answer is taken to need before it is known. A bound on its length says little: most
#: answers are far below it.
TYPICAL_ANSWER = 512
CHARS_PER_TOKEN = 4
IMAGE_TOKENS = 1000


class LimiterUnreachable(Unavailable):
    """Our own limiter does not answer. It says nothing about any model."""


class Turnstile(Protocol):
    """Something to wait at, such as `models.flagship.share.AccountLimit`."""

    async def acquire(self, call: Call, tokens: int = 0) -> int:
        """Returns with one permit and so many tokens, or raises one of our errors without."""
        ...

    def release(self, taken: int = 0, used: int | None = None) -> None: ...

    def pause(self, seconds: float) -> None: ...


class Limit:
    """`inner` with one permit around each call, given back however the call ends.

    A stream holds its permit from its first event being asked for until it ends or is closed.
    The tokens that were reserved are settled to what the answer says it used. A provider that
    says that it is asked too much makes the whole account pause.
    """

    def __init__(self, inner: Answerer, permits: Turnstile) -> None:
        self._inner = inner
        self._permits = permits

    async def complete(self, request: Request, call: Call) -> Completion:
        taken = await self._permits.acquire(call, expected_tokens(request))
        used: int | None = None
        try:
            completion = await self._inner.complete(request, call)
            used = _used(completion)
            return completion
        except RateLimited as error:
            used = self._told_to_pause(error)
            raise
        except Unavailable:
            used = 0
            raise
        finally:
            self._permits.release(taken, used)

    async def stream(self, request: Request, call: Call) -> Events:
        taken = await self._permits.acquire(call, expected_tokens(request))
        used: int | None = None
        try:
            async with aclosing(self._inner.stream(request, call)) as events:
                async for event in events:
                    if isinstance(event, Done):
                        used = _used(event.completion)
                    yield event
        except RateLimited as error:
            used = self._told_to_pause(error)
            raise
        except Unavailable:
            used = 0
            raise
        finally:
            self._permits.release(taken, used)

    def _told_to_pause(self, error: RateLimited) -> int:
        if error.retry_after_s:
            self._permits.pause(error.retry_after_s)
        return 0


def _used(completion: Completion) -> int | None:
    """None where the provider does not say."""
    return completion.usage.input + completion.usage.output or None


def expected_tokens(request: Request) -> int:
    """About how many tokens a call will use. Rough on purpose: it is settled afterwards."""
    return prompt_tokens(request) + answer_tokens(request)


def answer_tokens(request: Request) -> int:
    """About how many tokens come back."""
    return min(request.sampling.max_tokens or TYPICAL_ANSWER, TYPICAL_ANSWER)


def prompt_tokens(request: Request) -> int:
    """About how many tokens it brings."""
    chars = images = 0
    for message in request.messages:
        for part in message.content:
            if isinstance(part, Text):
                chars += len(part.text)
            elif isinstance(part, Image):
                images += 1
        chars += sum(len(call.arguments) for call in message.tool_calls)
    return chars // CHARS_PER_TOKEN + images * IMAGE_TOKENS
