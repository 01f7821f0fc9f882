"""`fusion profile`'s reading of a stream, on a server of paper."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from cluster.errors import ClusterError
from serve.cli import app
from serve.cli.profile import answer


def client(status: int, *chunks: dict[str, Any]) -> httpx.AsyncClient:
    asked: list[dict[str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
        return httpx.Response(status, text=f": hello\n\n{body}data: [DONE]\n\n")

    made = httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://paper")
    made.asked = asked  # type: ignore[attr-defined]  # for the test to look at
    return made


def said(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}}]}


async def test_an_answers_tokens_are_those_that_the_engine_counted() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 41, "completion_tokens": 3}}
    paper = client(200, said("a"), said("b c"), usage)
    timing = await answer(paper, "m", 20, 64)
    assert (timing.prompt_tokens, timing.generated_tokens) == (41, 3)
    assert timing.first_s > 0
    assert timing.step_s >= 0
    [body] = paper.asked  # type: ignore[attr-defined]  # see above
    assert body["max_tokens"] == 64
    assert len(body["messages"][0]["content"].split()) == 25


@pytest.mark.parametrize(
    "delta", [{"reasoning_content": "hm"}, {"content": None, "tool_calls": [{"index": 0}]}]
)
async def test_thoughts_and_calls_are_tokens_too(delta: dict[str, Any]) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 41, "completion_tokens": 2}}
    timing = await answer(client(200, {"choices": [{"delta": delta}]}, usage), "m", 20, 64)
    assert timing.first_s > 0


@pytest.mark.parametrize("option", [("--ttft-s", "0"), ("--tpot-s", "-1")])
def test_a_target_of_no_time_is_refused_before_anything_is_measured(
    option: tuple[str, str],
) -> None:
    given = ["profile", "m", "--usd-per-hour", "1", "--startup-s", "1", *option]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 2
    assert option[0] in done.output


async def test_two_prompts_are_never_alike() -> None:
    paper = client(200, said("a"))
    for _ in range(2):
        await answer(paper, "m", 50, 8)
    first, second = (body["messages"] for body in paper.asked)  # type: ignore[attr-defined]  # see above
    assert first != second


async def test_a_refusal_says_why() -> None:
    with pytest.raises(ClusterError, match=r"m refused: .*hello"):
        await answer(client(429), "m", 5, 8)
