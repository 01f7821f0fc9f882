"""`fusion simulate`: one object a policy, and nothing else, in a pipe; bad input ends in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from serve.cli import app

run = CliRunner()
KEYS = ["policy", "dollars", "ttft_attainment", "ttft_p50_s", "ttft_p99_s", "replica_hours"]
PROFILE: dict[str, Any] = {
    "node": {"usd_per_hour": 0.8, "startup_s": 60},
    "replica": {
        "prefill_tokens_per_s": 4000,
        "decode": {"step_base_s": 0.045, "step_per_sequence_s": 0.0009, "max_batch": 8},
    },
    "targets": {"ttft_s": 2.0, "tpot_s": 0.1, "attainment": 0.99},
    "serve_default_grid": {"target_ongoing_requests": [2, 4], "downscale_delay_s": [60]},
}
SMALL = {
    **PROFILE,
    "node": {**PROFILE["node"], "accelerator_memory_gib": 24},
    "replica": {**PROFILE["replica"], "weights_gib": 32},
}
TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:25:50.9951690,396,109
"""


def command(folder: Path, trace: str = TRACE, profile: Any = None, *more: str) -> list[str]:
    csv, file = folder / "trace.csv", folder / "profile.yaml"
    csv.write_text(trace)
    file.write_text(yaml.safe_dump(profile or PROFILE))
    return ["simulate", "--trace", str(csv), "--profile", str(file), *more]


def test_json_is_one_object_a_policy_with_the_keys_that_are_promised(tmp_path: Path) -> None:
    policies = ("ours", "static:2", "oracle")
    given = [word for policy in policies for word in ("--policy", policy)]
    done = run.invoke(app, command(tmp_path, TRACE, None, *given, "--json"))
    assert done.exit_code == 0, done.output
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["policy"] for one in told] == list(policies)
    for one in told:
        assert list(one) == [*KEYS, "requests", "shed", "spilled"]
    assert "rows were out of order and have been sorted" in done.stderr


def without(*path: str, **instead: Any) -> dict[str, Any]:
    """The profile without one key, or with another value there."""
    made: dict[str, Any] = json.loads(json.dumps(PROFILE))
    place = made
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    place.update(instead)
    return made


@pytest.mark.parametrize(
    ("trace", "profile", "more", "said"),
    [
        ("", None, (), "the trace is empty"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", None, (), "the trace is empty"),
        (TRACE, without("node", "usd_per_hour"), (), "node.usd_per_hour"),
        (TRACE, without("node", "usd_per_hour", usd_per_hour=0), (), "node.usd_per_hour"),
        (TRACE, SMALL, ("--policy", "static:1"), "missing 8.0"),
        (TRACE, None, ("--spot",), "no node.spot"),
        (TRACE, None, ("--spill",), "no remote section"),
        (TRACE, None, ("--policy", "magic"), "magic"),
        (TRACE, None, ("--policy", "static:1", "--policy", "magic"), "magic"),
        (TRACE, None, ("--policy", "static:100001"), "from 1 to 100000"),
        (TRACE, None, ("--policy", "static:" + "9" * 5000), "from 1 to 100000"),
    ],
)
def test_bad_input_ends_in_words_and_prints_no_data(
    tmp_path: Path, trace: str, profile: Any, more: tuple[str, ...], said: str
) -> None:
    done = run.invoke(app, command(tmp_path, trace, profile, *more, "--json"))
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "error: " in done.stderr
    assert said in done.stderr
