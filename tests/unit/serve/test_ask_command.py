"""`fusion ask` on `fusion/auto`: who was chosen, why, and how to judge the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from serve.cli import app, ask, reach, router

ROUTE = {"kind": "one", "models": ["small"], "model": "small", "why": "the cheapest, $0.000100"}
CASCADE = {"kind": "cascade", "models": ["small", "large"], "model": "large", "why": "it pays"}
PANEL = {"kind": "panel", "models": ["a", "b"], "panel": "pair", "model": "fusion/pair", "why": "x"}

Heard = list[tuple[str, Any]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[httpx.Response], Heard]:
    """Every request is answered with this; what was asked is noted."""

    def answering(response: httpx.Response) -> Heard:
        heard: Heard = []

        def handle(request: httpx.Request) -> httpx.Response:
            heard.append((request.url.path, json.loads(request.content)))
            return response

        def client(base: str, *_: Any) -> httpx.Client:
            return httpx.Client(base_url=base, transport=httpx.MockTransport(handle))

        monkeypatch.setattr(reach, "client", client)
        monkeypatch.setattr(ask, "client", client)
        return heard

    return answering


def run(*words: str) -> Any:
    return CliRunner().invoke(app, [*words, "--url", "http://house"])


def streamed(**fusion: Any) -> httpx.Response:
    """A stream of one answer, its record on the last chunk."""
    first = {"id": "chatcmpl-req_1", "choices": [{"delta": {"content": "Yes."}}]}
    last = {"id": "chatcmpl-req_1", "choices": [{"delta": {}, "finish_reason": "stop"}]}
    chunks = [first, last | {"fusion": fusion}]
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})


@pytest.mark.parametrize(
    ("route", "line"),
    [
        (ROUTE, "small: the cheapest, $0.000100"),
        (CASCADE, "small → large, answered by large: it pays"),
        (ROUTE | {"model": "large"}, "small, answered by large: the cheapest, $0.000100"),
        (PANEL, "fusion/pair: x"),
    ],
)
def test_the_route_and_the_way_to_feedback_are_told(
    serve: Callable[[httpx.Response], Heard], route: dict[str, Any], line: str
) -> None:
    serve(streamed(stages=[], route=route))
    shown = run("ask", "Is it?", "-m", "fusion/auto").stdout.splitlines()
    assert shown[-2:] == [line, "fusion router feedback chatcmpl-req_1 up"]


def test_what_was_not_routed_has_no_such_lines(
    serve: Callable[[httpx.Response], Heard],
) -> None:
    serve(streamed(stages=[]))
    assert "feedback" not in run("ask", "Is it?", "-m", "small").stdout


def test_json_has_the_route_and_the_id(serve: Callable[[httpx.Response], Heard]) -> None:
    whole = {"id": "chatcmpl-req_1", "choices": [], "fusion": {"route": ROUTE}}
    serve(httpx.Response(200, json=whole))
    told = json.loads(run("ask", "Is it?", "-m", "fusion/auto", "--json").stdout)
    assert (told["id"], told["fusion"]["route"]["why"]) == ("chatcmpl-req_1", ROUTE["why"])


@pytest.mark.parametrize(
    ("word", "field"),
    [("up", {"thumb": "up"}), ("down", {"thumb": "down"}), ("0.7", {"score": 0.7})],
)
def test_feedback_is_a_thumb_or_a_score(
    serve: Callable[[httpx.Response], Heard], word: str, field: dict[str, Any]
) -> None:
    heard = serve(httpx.Response(200, json={"model": "small", "score": 0.7}))
    done = run("router", "feedback", "chatcmpl-req_1", word)
    assert (done.exit_code, done.stdout) == (0, "small: 0.7\n")
    assert heard == [("/v1/feedback", {"id": "chatcmpl-req_1", **field})]


@pytest.mark.parametrize("word", ["1.5", "-0.1", "nan", "inf", "good", ""])
def test_what_is_no_judgement_is_not_sent(word: str) -> None:
    done = CliRunner().invoke(router.app, ["feedback", "x", "--url", "http://house", "--", word])
    assert done.exit_code == 2
    assert "say up, down, or a score from 0 to 1" in done.stderr


def test_a_dry_run_reads_a_prompt_that_no_command_line_holds(
    serve: Callable[[httpx.Response], Heard],
) -> None:
    heard = serve(httpx.Response(200, json={**ROUTE, "candidates": [], "options": []}))
    words = ["route", "-", "--quality", "0.2", "--url", "http://house"]
    done = CliRunner().invoke(app, words, input="long " * 200_000)
    assert done.stdout.splitlines()[0] == "small: the cheapest, $0.000100"
    assert heard == [("/v1/route", {"prompt": "long " * 200_000, "quality": 0.2})]
