"""vLLM with the packaged model, through the official client. Weak words, real machinery."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import Any

import anthropic
import httpx
import openai
import pytest
from support import Server

pytestmark = pytest.mark.engine

QUESTION = [{"role": "user", "content": "Name one colour of the rainbow."}]
#: Its answer is still being written when something is killed a second later.
LONG = [{"role": "user", "content": "Count from one to five hundred, every number in words."}]


def test_a_whole_answer(server: Server) -> None:
    answer = server.client().chat.completions.create(
        model="smollm2", messages=QUESTION, max_tokens=24, temperature=0, seed=1
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 10
    assert 0 < answer.usage.completion_tokens <= 24
    again = server.client().chat.completions.create(
        model="default", messages=QUESTION, max_tokens=24, temperature=0, seed=1
    )
    assert again.choices[0].message.content == answer.choices[0].message.content


def test_a_stream_says_the_same_piece_by_piece(server: Server) -> None:
    asked = {"model": "smollm2", "messages": QUESTION, "max_tokens": 24, "temperature": 0}
    whole = server.client().chat.completions.create(**asked)  # type: ignore[call-overload]
    chunks = list(
        server.client().chat.completions.create(  # type: ignore[call-overload]
            **asked, stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [
        c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content
    ]
    assert len(pieces) > 3
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_prompt_whose_bytes_pass_the_cap_counts_by_its_tokens(server: Server) -> None:
    asked: dict[str, Any] = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "river " * 300}],
        "max_tokens": 8,
    }

    def under(cap_usd: float) -> Any:
        options = {"fusion": {"cost_cap_usd": cap_usd}}
        return server.client(max_retries=0).chat.completions.create(**asked, extra_body=options)

    # 1,800 bytes are 18 millionths of a dollar, the tokens that they are less than 5.
    answer = under(0.000_008)
    assert 300 < answer.usage.prompt_tokens < 400
    with pytest.raises(openai.APIStatusError) as refused:
        under(0.000_002)
    assert refused.value.status_code == 402


def test_stop_ends_the_answer(server: Server) -> None:
    answer = server.client().chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Count: 1, 2, 3, 4, 5, 6"}],
        max_tokens=64,
        temperature=0,
        stop=["3"],
    )
    assert "3" not in (answer.choices[0].message.content or "")


def test_json_after_a_schema(server: Server) -> None:
    schema = {
        "type": "object",
        "properties": {
            "colour": {"type": "string", "maxLength": 20},
            "warm": {"type": "boolean"},
        },
        "required": ["colour", "warm"],
        "additionalProperties": False,
    }
    answer = server.client().chat.completions.create(
        model="smollm2",
        messages=QUESTION,
        max_tokens=100,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "colour", "schema": schema, "strict": True},
        },
    )
    data = json.loads(answer.choices[0].message.content or "")
    assert set(data) == {"colour", "warm"}
    assert isinstance(data["warm"], bool)


def test_a_prompt_longer_than_the_context_is_the_callers_400(server: Server) -> None:
    long = [{"role": "user", "content": "word " * 10_000}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            server.client().chat.completions.create(model="smollm2", messages=long, stream=stream)
        assert caught.value.code == "context_length_exceeded"


def test_a_fused_answer(server: Server) -> None:
    answer = server.client(timeout=300).chat.completions.create(
        model="fusion/default",
        messages=QUESTION,
        max_tokens=64,
        extra_body={"fusion": {"expose_panel": True}},
    )
    assert answer.choices[0].message.content
    assert answer.model == "smollm2"
    told = (answer.model_extra or {})["fusion"]
    assert [one["model"] for one in told["responses"]] == ["smollm2", "smollm2#2", "smollm2#3"]
    roles = [stage["role"] for stage in told["stages"]]
    assert roles[:3] == ["panelist"] * 3
    assert roles[-1] == "synthesis"
    # The small judge is held to the schema, so its five keys are always there.
    assert set(told["analysis"]) == {
        "consensus",
        "contradictions",
        "partial_coverage",
        "unique_insights",
        "blind_spots",
    }
    assert float(told["cost_usd"]) > 0
    assert answer.usage is not None
    assert answer.usage.total_tokens == sum(
        stage["input_tokens"] + stage["output_tokens"] for stage in told["stages"]
    )


async def test_hanging_up_stops_the_engine(server: Server) -> None:
    async def running() -> float:
        page = (await http.get(f"{server.url}/metrics")).text
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in page.splitlines()
            if line.startswith("ray_vllm_num_requests_running{")
        )

    body = {"model": "smollm2", "max_tokens": 1000, "messages": QUESTION, "stop": ["\x00"]}
    async with httpx.AsyncClient(timeout=60) as http:
        calls = [
            asyncio.create_task(http.post(f"{server.url}/v1/chat/completions", json=body))
            for _ in range(4)
        ]
        await _until(running, lambda count: count > 0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await _until(running, lambda count: count == 0)


async def _until(read, good, limit_s: float = 30.0) -> None:
    until = time.monotonic() + limit_s
    while not good(value := await read()):
        assert time.monotonic() < until, f"still {value}"
        await asyncio.sleep(0.3)


async def test_200_at_once_on_one_replica(server: Server) -> None:
    async with server.async_client(max_retries=0, timeout=300) as client:
        calls = (
            client.chat.completions.create(model="smollm2", messages=QUESTION, max_tokens=4)
            for _ in range(200)
        )
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [one for one in results if isinstance(one, openai.RateLimitError)]
        assert all("retry-after" in one.response.headers for one in refused)
        assert len(refused) + sum(not isinstance(one, BaseException) for one in results) == 200
        assert len(refused) < 200


@pytest.mark.parametrize("part", ["VLLM::EngineCore", "Workforce:smollm2"])
@pytest.mark.timeout(400)
async def test_killed_it_leaves_no_orphan_and_serves_again(server: Server, part: str) -> None:
    async with server.async_client(max_retries=0, timeout=300) as client:
        call = asyncio.create_task(
            client.chat.completions.create(
                model="smollm2", messages=LONG, max_tokens=900, stream=True, temperature=0
            )
        )
        stream = await call
        await anext(stream)
        engines = server.processes("VLLM::")
        assert engines
        [victim] = server.processes(part)
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        # The stream that was under way ends with an error and not in silence.
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass
        while True:
            try:
                answer = await client.chat.completions.create(
                    model="smollm2", messages=QUESTION, max_tokens=4
                )
                break
            except openai.APIStatusError as error:
                assert error.status_code in (429, 503), error
                assert time.monotonic() - began < 120
                await asyncio.sleep(1)
        assert answer.usage is not None
        assert time.monotonic() - began < 120
        assert not set(engines) & set(server.processes("VLLM::")), "an orphan engine is left"


def test_a_count_is_what_the_model_then_reads(server: Server) -> None:
    asked: Any = {"model": "smollm2", "system": "Be brief.", "messages": QUESTION}
    with anthropic.Anthropic(base_url=server.url, api_key="none") as client:
        counted = client.messages.count_tokens(**asked)
        answer = client.messages.create(**asked, max_tokens=4)
        stopped = client.messages.create(**asked, max_tokens=64, stop_sequences=["e"])
    used = answer.usage
    assert counted.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0)
    assert (answer.stop_reason, used.output_tokens) == ("max_tokens", 4)
    # No sentence of English goes on for 64 tokens without one.
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "e")
