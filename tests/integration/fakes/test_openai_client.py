"""The official clients are the judges of the dialects, through HAProxy and Serve. What needs no
cluster is in tests/unit/serve/gateway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import anthropic
import httpx
import openai
import pytest
from openai import BadRequestError, NotFoundError
from support import Server, fusion

pytestmark = pytest.mark.cluster

HELLO = [{"role": "user", "content": "hello there"}]


def test_a_whole_answer(server: Server) -> None:
    raw = server.client().chat.completions.with_raw_response.create(model="echo", messages=HELLO)
    answer = raw.parse()
    assert answer.choices[0].message.content == "hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "echo"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 2)
    assert answer.usage.total_tokens == 4
    # One id leads from the client through the answer to the server's logs.
    assert answer.id.startswith(f"chatcmpl-{raw.headers['x-request-id']}-")
    assert len(raw.headers.get_list("x-request-id")) == 1


def test_cost_and_tokens_by_stage_come_with_every_answer(server: Server) -> None:
    answer = server.client().chat.completions.create(model="echo", messages=HELLO)
    told = (answer.model_extra or {})["fusion"]
    assert told["cost_usd"] == "0.000006"
    [stage] = told["stages"]
    assert (stage["role"], stage["model"], stage["input_tokens"]) == ("answer", "echo", 2)


def test_a_stream_with_usage(server: Server) -> None:
    stream = server.client().chat.completions.create(
        model="default", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "hello there"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 4
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_clients_stream_helper_reads_ours(server: Server) -> None:
    with server.client().chat.completions.stream(model="echo", messages=HELLO) as stream:
        assert stream.get_final_completion().choices[0].message.content == "hello there"


def test_max_tokens_bounds_the_answer(server: Server) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        answer = server.client().chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "one two three"}], **{field: 2}
        )
        assert answer.choices[0].message.content == "one two"
        assert answer.choices[0].finish_reason == "length"


def test_a_schema_is_filled(server: Server) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array"}}, "required": ["a"]}
    answer = server.client().chat.completions.create(
        model="echo",
        messages=HELLO,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert answer.choices[0].message.content == '{"a": []}'


def test_models_lists_every_name_that_a_request_may_use(server: Server) -> None:
    client = server.client()
    names = {model.id for model in client.models.list()}
    expected = {"echo", "default", "fusion/default", "fusion/limping", "openrouter/fusion"}
    assert expected | {"fusion/auto"} <= names
    for name in sorted(names):
        assert client.models.retrieve(name).id == name
    with pytest.raises(NotFoundError):
        client.models.retrieve("nobody")


def test_what_does_not_change_the_answer_is_accepted(server: Server) -> None:
    answer = server.client().chat.completions.create(
        model="echo",
        messages=HELLO,
        user="me",
        metadata={"job": "7"},
        store=False,
        service_tier="auto",
        n=1,
    )
    assert answer.choices[0].message.content == "hello there"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
        ({"extra_body": {"fusion": {"evnts": True}}}, "fusion.evnts"),
    ],
)
def test_what_cannot_be_done_is_a_clear_400(
    server: Server, change: dict[str, object], param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        server.client(max_retries=0).chat.completions.create(
            **({"model": "echo", "messages": HELLO} | change)  # type: ignore[arg-type]
        )
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.message


def test_an_unknown_model_is_404(server: Server) -> None:
    with pytest.raises(NotFoundError) as caught:
        server.client().chat.completions.create(model="nobody", messages=HELLO)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("model", ["nobody", "fusion/nobody"])
def test_an_error_before_the_first_token_is_a_status_for_streams_too(
    server: Server, model: str
) -> None:
    with pytest.raises(NotFoundError):
        server.client().chat.completions.create(model=model, messages=HELLO, stream=True)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"\xff\xfe{}", 400, "UTF-8"),
        (b'{"model": ', 400, "JSON"),
        (b"[]", 400, "Invalid"),
        (b"", 400, "JSON"),
        (b"x" * 10_000_000, 413, "larger than 2 MB"),
    ],
    ids=["utf8", "half", "list", "empty", "10MB"],
)
def test_raw_bad_bodies(server: Server, body: bytes, status: int, words: str) -> None:
    response = httpx.post(f"{server.url}/v1/chat/completions", content=body, timeout=30)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]


def test_wrong_paths_and_methods_have_the_same_shape(server: Server) -> None:
    for response, status in (
        (httpx.get(f"{server.url}/v1/nothing"), 404),
        (httpx.get(f"{server.url}/v1/chat/completions"), 405),
    ):
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_health_names_every_part(server: Server) -> None:
    # Another test may have killed replicas; they come back.
    until = time.monotonic() + 60
    while (health := httpx.get(f"{server.url}/healthz").json())["status"] != "ok":
        assert time.monotonic() < until, health
        time.sleep(0.5)
    assert {"Gateway", "Judge", "Router", "Workforce:echo"} <= set(health["parts"])
    assert health["parts"]["Judge"]["replicas"] == 2


def test_auto_lets_the_router_choose(server: Server) -> None:
    plan = httpx.post(f"{server.url}/v1/route", json={"prompt": "hello there"}, timeout=30).json()
    assert {"echo", "twin"} <= {one["model"] for one in plan["candidates"]}
    answer = server.client().chat.completions.create(
        model="fusion/auto", messages=HELLO, extra_body={"fusion": {"quality": 0.5}}
    )
    route = answer.model_extra["fusion"]["route"]  # type: ignore[index]
    assert route["model"] == answer.model
    assert (route["kind"], route["models"]) == (plan["kind"], plan["models"])


def test_feedback_reaches_the_router_and_outlives_it(server: Server) -> None:
    answer = server.client().chat.completions.create(model="fusion/auto", messages=HELLO)
    said = {"id": answer.id, "thumb": "up"}
    assert httpx.post(f"{server.url}/v1/feedback", json=said, timeout=30).status_code == 200
    assert httpx.post(f"{server.url}/v1/feedback", json=said, timeout=30).status_code == 409
    assert _judgements(server) >= 1
    for replica in server.processes(":Router"):
        os.kill(replica, signal.SIGKILL)
    assert _judgements(server) >= 1


def _judgements(server: Server) -> int:
    """What the router says it has learned, once it answers and has learned something."""
    until = time.monotonic() + 40
    while time.monotonic() < until:
        response = httpx.get(f"{server.url}/v1/router", timeout=30)
        if response.is_success and response.json()["judgements"]:
            return int(response.json()["judgements"])
        time.sleep(0.5)
    return 0


def test_what_the_router_learned_goes_out_away_and_back(server: Server, tmp_path: Path) -> None:
    """By the commands of the shell, as a user would."""
    client, file = server.client(), tmp_path / "learned.json"
    answer = client.chat.completions.create(
        model="fusion/auto", messages=HELLO, extra_body={"fusion": {"quality": 0.0}}
    )
    said = {"id": answer.id, "thumb": "down"}
    assert httpx.post(f"{server.url}/v1/feedback", json=said, timeout=30).status_code == 200
    assert _judgements(server) >= 1
    assert "90% interval" in _ran(server, "route", "hello there", "--quality", "0.3")
    _ran(server, "router", "export", str(file))
    learned = json.loads(file.read_text())["health"]["judgements"]
    assert learned >= 1
    _ran(server, "router", "reset", "--yes")
    assert httpx.get(f"{server.url}/v1/router", timeout=30).json()["judgements"] == 0
    _ran(server, "router", "import", str(file))
    status = json.loads(_ran(server, "router", "status", "--json"))
    assert status["judgements"] == learned
    file.write_text('{"format": 9, "learner": {}}')
    refused = _ran(server, "router", "import", str(file), status=2)
    assert "This cannot be imported: format 9 is not this version's." in refused


def _ran(server: Server, *arguments: str, status: int = 0) -> str:
    """What a command says that ends with this status: on its output, or what was wrong."""
    command = fusion(*arguments, "--port", str(server.port))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def test_a_fusion_reads_as_an_ordinary_completion(server: Server) -> None:
    for name in ("fusion/default", "openrouter/fusion"):
        answer = server.client().chat.completions.create(
            model=name, messages=HELLO, extra_body={"fusion": {"expose_panel": True}}
        )
        # The writer repeats its prompt: everything planted must stand in it.
        text = answer.choices[0].message.content or ""
        assert "planted-left" in text
        assert "planted-right" in text
        told = (answer.model_extra or {})["fusion"]
        assert set(told["analysis"]) == {
            "consensus",
            "contradictions",
            "partial_coverage",
            "unique_insights",
            "blind_spots",
        }
        assert [one["model"] for one in told["responses"]] == ["left", "right"]
        assert answer.model == "echo"


def test_a_streamed_fusion_tells_its_steps_to_those_who_ask(server: Server) -> None:
    stream = server.client().chat.completions.create(
        model="fusion/default", messages=HELLO, stream=True, extra_body={"fusion": {"events": True}}
    )
    steps = [
        chunk.model_extra["fusion"]["event"]
        for chunk in stream
        if not chunk.choices and chunk.model_extra and "fusion" in chunk.model_extra
    ]
    assert steps[:3] == ["in_progress", "panel.added", "panel.added"]
    assert set(steps[3:-3]) == {"panel.delta", "panel.completed"}
    assert steps[-3:] == ["analysis.in_progress", "analysis.completed", "completed"]


def test_a_fusion_can_be_read_later_under_its_id(server: Server) -> None:
    answer = server.client().chat.completions.create(model="fusion/default", messages=HELLO)
    identity = answer.model_extra["fusion"]["id"]  # type: ignore[index]
    told = httpx.get(f"{server.url}/v1/fusions/{identity}", timeout=10).json()
    assert [one["content"] for one in told["responses"]] == ["planted-left", "planted-right"]
    assert told["output"] == answer.choices[0].message.content
    assert [stage["role"] for stage in told["stages"]] == [
        *(["panelist"] * 2),
        "judge",
        "synthesis",
    ]
    shown = subprocess.run(
        fusion("show", identity, "--url", server.url), capture_output=True, text=True, check=True
    )
    assert "planted-left" in shown.stdout
    missing = httpx.get(f"{server.url}/v1/fusions/fus_unknown", timeout=10)
    assert missing.status_code == 404


def test_one_model_fused_with_itself_and_the_best_of_two(server: Server) -> None:
    for name, members in (("itself", ["left", "left#2"]), ("best", ["left", "right"])):
        answer = server.client().chat.completions.create(
            model=f"fusion/{name}", messages=HELLO, extra_body={"fusion": {"expose_panel": True}}
        )
        told = (answer.model_extra or {})["fusion"]
        assert [one["model"] for one in told["responses"]] == members
    assert told["best"] in members
    assert answer.choices[0].message.content == f"planted-{told['best']}"


def test_nobody_else_sees_a_chunk_without_a_choice(server: Server) -> None:
    stream = server.client().chat.completions.create(
        model="fusion/default", messages=HELLO, stream=True
    )
    assert all(chunk.choices for chunk in stream)


def test_one_panelist_failing_does_not_fail_the_request(server: Server) -> None:
    answer = server.client().chat.completions.create(model="fusion/limping", messages=HELLO)
    told = (answer.model_extra or {})["fusion"]
    [failed] = told["failed_models"]
    assert failed["model"] == "unreachable"
    assert failed["status_code"] == 503
    assert "planted-left" in (answer.choices[0].message.content or "")


@pytest.mark.parametrize("stream", [False, True])
def test_all_panelists_failing_does(server: Server, stream: bool) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        server.client(max_retries=0).chat.completions.create(
            model="fusion/dead", messages=HELLO, stream=stream
        )
    assert caught.value.status_code == 502
    assert caught.value.code == "all_panels_failed"
    assert "all panel models failed" in caught.value.message


def test_a_fusion_streams_in_the_responses_dialect(server: Server) -> None:
    seen = list(
        server.client().responses.create(model="openrouter/fusion", input="hello", stream=True)
    )
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    kinds = [event.type for event in seen]
    assert kinds.count("response.fusion_call.panel.completed") == 2  # type: ignore[comparison-overlap]
    # The writer repeats its prompt, which is longer than the 64 tokens that it may write.
    assert kinds[-1] == "response.incomplete"
    last = seen[-1]
    assert last.type == "response.incomplete"
    assert [item.type for item in last.response.output] == ["openrouter:fusion", "message"]
    assert "planted-left" in last.response.output_text


def test_a_hosted_model_answers_and_counts_in_anthropics_dialect(server: Server) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="none") as client:
        with client.messages.stream(
            model="default", max_tokens=50, messages=[{"role": "user", "content": "hello there"}]
        ) as stream:
            message = stream.get_final_message()
        counted = client.messages.count_tokens(
            model="default", messages=[{"role": "user", "content": "hello there"}]
        )
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(
                model="nobody", max_tokens=5, messages=[{"role": "user", "content": "x"}]
            )
    [block] = message.content
    assert block.type == "text"
    assert (block.text, message.model, message.stop_reason) == ("hello there", "echo", "end_turn")
    assert message.usage.output_tokens == 2
    # The replica's own tokenizer: the fake's tokens are words.
    assert counted.input_tokens == 2


def test_a_response_is_gone_on_from(server: Server) -> None:
    client = server.client()
    first = client.responses.create(model="echo", input="one two three")
    assert first.store
    second = client.responses.create(model="echo", input="four", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="echo", input="x", previous_response_id="resp_nobody")
