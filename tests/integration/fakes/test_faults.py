"""Overload, hang-ups and death of replicas, on a real cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import httpx
import openai
import pytest
from support import Server

pytestmark = pytest.mark.cluster

HELLO = [{"role": "user", "content": "hello"}]


async def test_overload_is_429_with_a_time_to_come_back(server: Server) -> None:
    # One at work, two waiting; the others must be told, at once and properly.
    async with server.async_client(max_retries=0) as client:
        calls = (client.chat.completions.create(model="narrow", messages=HELLO) for _ in range(12))
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [one for one in results if isinstance(one, openai.RateLimitError)]
        served = [one for one in results if not isinstance(one, BaseException)]
        assert len(served) + len(refused) == 12
        assert len(served) >= 3
        assert refused
        for error in refused:
            assert int(error.response.headers["retry-after"]) >= 1
            assert error.code == "overloaded"


async def test_where_nobody_may_wait_one_is_answered_at_a_time(server: Server) -> None:
    async with server.async_client(max_retries=0) as client:
        for _ in range(2):  # known to be free, and before anybody has heard of it
            calls = (client.chat.completions.create(model="seat", messages=HELLO) for _ in range(4))
            results = await asyncio.gather(*calls, return_exceptions=True)
            refused = [one for one in results if isinstance(one, openai.RateLimitError)]
            assert refused
            assert [one for one in results if not isinstance(one, BaseException)]


async def test_200_at_once_are_all_answered(server: Server) -> None:
    async with server.async_client(max_retries=0, timeout=60) as client:
        calls = (client.chat.completions.create(model="echo", messages=HELLO) for _ in range(200))
        answers = await asyncio.gather(*calls)
        assert {answer.choices[0].message.content for answer in answers} == {"hello"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_frees_the_replica(server: Server, stream: bool) -> None:
    # 'single' works on one request at a time and takes ten seconds for it.
    body = {"model": "single", "messages": HELLO, "stream": stream}
    began = time.monotonic()
    async with httpx.AsyncClient() as client:
        with contextlib.suppress(httpx.ReadTimeout):
            async with client.stream(
                "POST", f"{server.url}/v1/chat/completions", json=body, timeout=1.0
            ) as response:
                async for _ in response.aiter_bytes():
                    pass
    async with server.async_client(timeout=60) as patient:
        answer = await patient.chat.completions.create(model="single", messages=HELLO, max_tokens=1)
    assert answer.choices[0].message.content == "a"
    assert time.monotonic() - began < 9


def victim_of(server: Server, model: str) -> list[int]:
    return server.processes(f"Workforce:{model}")


async def two(server: Server, model: str) -> list[int]:
    """Its two replicas, once both serve: one may still be coming back from another test's kill."""
    until = time.monotonic() + 60
    async with httpx.AsyncClient(timeout=10) as client:
        while True:
            parts = (await client.get(f"{server.url}/healthz")).json()["parts"]
            if parts[f"Workforce:{model}"]["replicas"] == 2:
                break
            assert time.monotonic() < until, parts
            await asyncio.sleep(0.5)
    both = victim_of(server, model)
    assert len(both) == 2
    return both


async def test_a_whole_request_survives_the_death_of_its_replica(server: Server) -> None:
    async with server.async_client(max_retries=0, timeout=60) as client:
        both = await two(server, "twin")
        calls = [
            asyncio.create_task(client.chat.completions.create(model="twin", messages=HELLO))
            for _ in range(6)
        ]
        await asyncio.sleep(0.6)
        os.kill(both[0], signal.SIGKILL)
        answers = await asyncio.gather(*calls)
        # The retried ones came from somebody who lives.
        assert {answer.choices[0].message.content for answer in answers} <= {
            str(pid) for pid in (*both[1:], *victim_of(server, "twin"))
        }


async def test_a_stream_that_has_begun_ends_with_an_error_event(server: Server) -> None:
    async with server.async_client(max_retries=0, timeout=60) as client:
        pids = await two(server, "drip")

        begun = asyncio.Semaphore(0)

        async def read() -> tuple[str, Exception | None]:
            text, seen = "", False
            try:
                stream = await client.chat.completions.create(
                    model="drip", messages=HELLO, stream=True
                )
                async for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
                    if text.startswith("1 2") and not seen:
                        seen = True
                        begun.release()
            except openai.APIError as error:
                return text, error
            return text, None

        # So many that one of two replicas hardly gets them all.
        tasks = [asyncio.create_task(read()) for _ in range(12)]
        for _ in tasks:
            await asyncio.wait_for(begun.acquire(), 30)
        os.kill(pids[0], signal.SIGKILL)
        results = await asyncio.gather(*tasks)
        broken = [(text, error) for text, error in results if error is not None]
        assert broken, "no stream was on the killed replica"
        for text, error in broken:
            assert text.startswith("1 2")
            assert "went away" in str(error)
        for text, error in results:
            if error is None:
                assert text == f"1 2 3 4 5 6 7 8 {pids[1]}"


def test_metrics_cover_all_replicas(server: Server) -> None:
    client = server.client()
    before = _count(server)
    for _ in range(5):
        client.chat.completions.create(model="echo", messages=HELLO)
    until = time.monotonic() + 15
    while _count(server) < before + 5:
        assert time.monotonic() < until, "the requests never appeared"
        time.sleep(0.5)
    page = httpx.get(f"{server.url}/metrics").text
    for family in ("fusion_requests_total", "fusion_request_seconds", "fusion_tokens_total"):
        assert f"# TYPE ray_{family}" in page
    assert "# 1 of 1 nodes answered" in page


def _count(server: Server) -> float:
    total = 0.0
    for line in httpx.get(f"{server.url}/metrics").text.splitlines():
        if line.startswith("ray_fusion_requests_total{") and 'model="echo"' in line:
            total += float(line.rsplit(" ", 1)[1])
    return total
