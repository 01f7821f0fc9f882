"""`fusion show`: all of a fusion, also of one that came to nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from serve.cli import app, reach

STAGE = {"input_tokens": 3, "output_tokens": 6, "seconds": 0.5}
TOLD: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Is it wet?"}],
    "responses": [{"model": "a", "content": "Yes."}],
    "failed_models": [{"model": "b", "error": "gone", "status_code": 503}],
    "judge": "j",
    "stages": [
        STAGE | {"role": "panelist", "model": "a", "member": "a#2", "cost_usd": "0.01"},
        STAGE | {"role": "panelist", "model": "b", "cost_usd": None, "error": "gone"},
    ],
    "cost_usd": "0.01",
}


def shown(monkeypatch: pytest.MonkeyPatch, told: dict[str, Any]) -> str:
    """What the command prints of this record."""

    def client(base: str, *_: Any) -> httpx.Client:
        answer = httpx.Response(200, json=told)
        return httpx.Client(base_url=base, transport=httpx.MockTransport(lambda _: answer))

    monkeypatch.setattr(reach, "client", client)
    done = CliRunner().invoke(app, ["show", "fus_1", "--url", "http://house"])
    assert done.exit_code == 0
    return done.stdout


def test_who_said_what_who_failed_and_what_it_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, TOLD | {"output": "It is.", "model": "w"})
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert {"Is it wet?", "✓ a", "✗ b gone", "Answer (w)", "It is."} <= set(lines)
    assert lines[-4:] == [
        "stage model in out seconds USD",
        "panelist a#2 3 6 0.50 0.01",
        "panelist b 3 6 0.50 failed",
        "all at least 0.01",
    ]


def test_what_cost_what_it_says_has_no_doubt_in_its_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = STAGE | {"role": "tool", "model": "web_search", "cost_usd": "0", "error": "refused"}
    text = shown(monkeypatch, TOLD | {"stages": [TOLD["stages"][0], searched]})
    assert " ".join(text.splitlines()[-1].split()) == "all 0.01"


def test_a_judge_that_failed_and_a_fusion_that_failed_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged = shown(monkeypatch, TOLD | {"failure_reason": "judge_not_valid_json"})
    assert "no analysis: judge_not_valid_json" in judged
    over = TOLD | {"error": "The caller went away.", "failure_reason": "cancelled"}
    assert "The caller went away.\nfailed: cancelled" in shown(monkeypatch, over)
