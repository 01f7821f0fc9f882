from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models import wire
from models.messages import Completion, Request, Sampling, Usage, assistant, system, user
from models.workforce.fake import FakeReplica


def replica(**spec: Any) -> FakeReplica:
    return FakeReplica("small", {"engine": "fake", **spec})


def asked(*messages: Any, **sampling: Any) -> dict[str, Any]:
    request = Request("small", messages, Sampling(**sampling))
    return wire.payload(request, model="small", stream=False)


async def whole(fake: FakeReplica, body: dict[str, Any]) -> Completion:
    return wire.completion(await fake.ask(body), model="small")


async def streamed(fake: FakeReplica, body: dict[str, Any]) -> Completion:
    deltas = wire.Deltas("small")
    async for chunk in fake.ask_stream(body):
        list(deltas.feed(chunk))
    return deltas.done().completion


async def test_without_a_reply_it_repeats_the_question() -> None:
    assert (await whole(replica(), asked(user("how are you")))).text == "how are you"


async def test_a_reply_with_places_in_it() -> None:
    fake = replica(reply="{system} {question} {pid} {other}")
    body = asked(system("Sir,"), user("first"), assistant("no"), user("second"))
    assert (await whole(fake, body)).text == f"Sir, second {os.getpid()} {{other}}"


async def test_the_question_is_repeated_and_not_read_for_places() -> None:
    question = "what do {pid} and {system} mean"
    assert (await whole(replica(), asked(user(question)))).text == question


async def test_words_are_counted_as_tokens() -> None:
    done = await whole(replica(reply="one two three"), asked(system("Be brief."), user("go on")))
    assert done.usage == Usage(input=4, output=3)
    assert done.finish_reason == "stop"


async def test_the_limit_of_tokens_cuts_the_answer() -> None:
    done = await whole(replica(reply="one two three"), asked(user("go"), max_tokens=2))
    assert (done.text, done.finish_reason, done.usage.output) == ("one two", "length", 2)
    exact = await whole(replica(reply="one two three"), asked(user("go"), max_tokens=3))
    assert (exact.text, exact.finish_reason) == ("one two three", "stop")


@given(reply=st.text(st.characters(exclude_characters="{}"), max_size=20), limit=st.integers(1, 5))
@settings(max_examples=30)
def test_streamed_or_whole_it_is_the_same_answer(reply: str, limit: int) -> None:
    async def both() -> tuple[Completion, Completion]:
        fake, body = replica(reply=reply), asked(user("go"), max_tokens=limit)
        return await whole(fake, body), await streamed(fake, body)

    one, other = asyncio.run(both())
    assert one == other
    assert reply.startswith(one.text)


async def test_it_takes_its_time() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await whole(replica(reply="one two three", first_token_s=0.01, token_s=0.005), asked(user("")))
    assert loop.time() - start >= 0.019


async def test_it_says_how_many_requests_it_works_on() -> None:
    fake = replica(reply="one two", token_s=60)
    assert await fake.running() == 0
    async with aclosing(fake.ask_stream(asked(user("go")))) as chunks:
        await anext(chunks)
        assert await fake.running() == 1
    assert await fake.running() == 0


async def test_a_cancelled_request_is_worked_on_no_more() -> None:
    fake = replica(first_token_s=60)
    tasks = [asyncio.create_task(fake.ask(asked(user("go")))) for _ in range(3)]
    await asyncio.sleep(0)
    assert await fake.running() == 3
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # A generator inside a cancelled call is closed in the loop's next turns.
    await asyncio.sleep(0.001)
    assert await fake.running() == 0


def test_its_spec_is_checked_like_the_catalogs() -> None:
    with pytest.raises(ValidationError, match="repy"):
        replica(repy="typo")


async def test_it_tells_how_likely_its_words_were_if_it_can_and_is_asked() -> None:
    telling = replica(reply="a b", logprob=-0.5)
    assert (await whole(telling, asked(user("x"), logprobs=True))).logprob == -0.5
    assert (await whole(telling, asked(user("x")))).logprob is None
    assert (await whole(replica(), asked(user("x"), logprobs=True))).logprob is None
