"""Plans on a real server: on every dialect, by the official clients, and from the command line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import anthropic
import pytest
import yaml
from support import Server, fusion

pytestmark = pytest.mark.cluster

TASK = "Name two colours."
GRAPH = {
    "subtasks": [
        {"id": "a", "kind": "write", "task": "the left one", "model": "left"},
        {"id": "b", "kind": "write", "task": "the right one", "model": "right"},
        {"id": "both", "kind": "decide", "task": "which", "needs": ["a", "b"], "model": "left"},
    ]
}


def command(server: Server, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        fusion(*map(str, words), "--url", server.url), capture_output=True, text=True, check=False
    )


def test_the_planner_answers_on_every_dialect(server: Server) -> None:
    """This one plans nothing that can be read, so the task stays whole; it is done all the same."""
    client = server.client()
    messages = [{"role": "user", "content": TASK}]
    chat = client.chat.completions.create(model="fusion/plan", messages=messages)
    told = (chat.model_extra or {})["fusion"]["plan"]
    assert [one["id"] for one in told["subtasks"]] == ["whole"]
    assert chat.choices[0].message.content
    assert client.responses.create(model="fusion/plan", input=TASK).output_text
    with anthropic.Anthropic(base_url=server.url, api_key="none") as other:
        answer = other.messages.create(model="fusion/plan", max_tokens=64, messages=messages)
    assert answer.content[0].type == "text"
    assert answer.content[0].text


def test_a_graph_of_ones_own_from_the_command_line(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "graph.yaml"
    file.write_text(yaml.safe_dump(GRAPH))
    done = command(server, "plan", TASK, "--graph", file, "--deadline", "5m")
    assert done.returncode == 0, done.stderr
    assert "decide   both  ← a, b" in done.stdout
    for name, model in (("a", "left"), ("b", "right"), ("both", "left")):
        assert f"✓ {name}  {model}" in done.stdout
    [identity] = {word for word in done.stdout.split() if word.startswith("plan_")} & {
        one["id"] for one in json.loads(command(server, "plans", "--json").stdout)
    }
    shown = json.loads(command(server, "plans", identity, "--json").stdout)
    assert shown["status"] == "done"
    assert {one["id"]: one["text"] for one in shown["results"]} == {
        "a": "planted-left",
        "b": "planted-right",
        "both": "planted-left",
    }
    again = command(server, "plan", "--resume", identity)
    assert (again.returncode, "This plan is done" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--deadline", "soon"), 2, "'soon' is not a time"),
        (("--template", "nothing"), 1, "there are architecture, comparison, reading"),
        (("--budget", "-1"), 2, "above 0"),
        (("--documents", "nowhere"), 2, "nowhere is no folder"),
        (("--graph", "nowhere.yaml"), 2, "nowhere.yaml cannot be read"),
        (("--resume", "plan_0"), 1, "plan_0"),
    ],
)
def test_what_cannot_be_planned_ends_in_words(
    server: Server, words: tuple[str, ...], code: int, said: str
) -> None:
    done = command(server, "plan", TASK, *words)
    assert (done.returncode, said in done.stderr.replace("\n", " ")) == (code, True), done.stderr
