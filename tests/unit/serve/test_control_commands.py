"""`fusion approvals`, `audit`, `sessions`, `chat` and `policy explain`, against a real server."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from click.testing import Result
from gateway_process import serve
from support import free_port
from typer.testing import CliRunner

from serve.cli import app


class Shell:
    """Runs commands against one server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(app, [*arguments, "--url", self.url], input=stdin)

    def does(self, *arguments: str, stdin: str = "") -> str:
        done = self(*arguments, stdin=stdin)
        assert done.exit_code == 0, done.output
        return done.stdout

    def session(self) -> str:
        return str(json.loads(self.does("sessions", "list", "--json"))[0]["id"])


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """Its model `m` costs a dollar an answer, and a session may spend two."""
    port, servers = free_port(), list[uvicorn.Server]()
    work = serve(f"sqlite:///{tmp_path}/fusion.db", port, 0.0, begun=servers.append)
    thread = threading.Thread(target=asyncio.run, args=(work,), daemon=True)
    thread.start()
    while not servers or not servers[0].started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield Shell(f"http://127.0.0.1:{port}")
    servers[0].should_exit = True
    thread.join(10)


def test_a_chat_freezes_is_approved_and_goes_on(shell: Shell) -> None:
    told = shell.does("chat", "--model", "m", stdin="one\n\ntwo\nthree\n")
    session = shell.session()
    assert f"fusion chat --session {session}" in told
    assert "re:one\nre:two\n[Policy 'budget'" in told
    (waiting,) = json.loads(shell.does("approvals", "list", "--state", "pending", "--json"))
    assert waiting["session"] == session
    assert waiting["sentence"] in shell.does("approvals", "list")
    approved = shell.does("approvals", "approve", waiting["id"], "--ceiling", "9")
    assert approved == f"{waiting['id']}: approved\n"
    again = shell("approvals", "approve", waiting["id"])
    assert again.exit_code == 1
    assert "approved already" in again.stderr
    told = shell.does("chat", "--model", "m", "--session", session, stdin="/model m\nfour\n")
    assert told.endswith("re:four\n")

    rows = [json.loads(line) for line in shell.does("audit", "export").splitlines()]
    assert {row["decision"] for row in rows} == {"allow", "ask"}
    later = shell.does("audit", "export", "--after", str(rows[-2]["id"]), "--project", "default")
    # The approved request goes on meanwhile, and is judged again.
    assert json.loads(later.splitlines()[0]) == rows[-1]
    assert shell.does("audit", "export", "--project", "a&b=c") == ""


def test_a_rejection_says_why(shell: Shell) -> None:
    shell.does("chat", "--model", "m", stdin="one\ntwo\nthree\n")
    (waiting,) = json.loads(shell.does("approvals", "list", "--json"))
    rejected = json.loads(
        shell.does("approvals", "reject", waiting["id"], "--reason", "too dear", "--json")
    )
    assert (rejected["state"], rejected["note"]) == ("rejected", "too dear")


def test_a_session_is_listed_read_renamed_forked_taken_out_and_in(
    shell: Shell, tmp_path: Path
) -> None:
    shell.does("chat", "--model", "m", stdin="one\ntwo\n")
    session = shell.session()
    shell.does("sessions", "rename", session, "[Trip]")
    assert "[Trip]" in shell.does("sessions", "list")
    items = json.loads(shell.does("sessions", "read", session, "--json"))
    read = shell.does("sessions", "read", session)
    assert [line for line in read.splitlines() if line] == [
        f"user  {items[0]['id']}",
        "one",
        f"m  {items[1]['id']}",
        "re:one",
        f"user  {items[2]['id']}",
        "two",
        f"m  {items[3]['id']}",
        "re:two",
    ]
    fork = shell.does("sessions", "fork", session, "--item", items[1]["id"]).strip()
    assert len(json.loads(shell.does("sessions", "read", fork, "--json"))) == 2

    file = tmp_path / "session.jsonl"
    file.write_text(shell.does("sessions", "export", session), "utf-8")
    made = shell.does("sessions", "import", str(file)).strip()
    assert made not in (session, fork)
    copied = json.loads(shell.does("sessions", "read", made, "--json"))
    assert [one["message"] for one in copied] == [one["message"] for one in items]

    shell.does("sessions", "archive", fork)
    assert fork in shell.does("sessions", "list", "--archived")
    assert "(HTTP 409)]" in shell.does("chat", "--model", "m", "--session", fork, stdin="more\n")
    shell.does("sessions", "archive", fork, "--back")
    shell.does("sessions", "delete", fork)
    gone = shell("sessions", "read", fork)
    assert gone.exit_code == 1
    assert "There is no session" in gone.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("approvals", "approve", "apv_none"),
        ("sessions", "export", "ses_none"),
        ("chat", "--session", "ses_none"),
        ("sessions", "fork", "ses_none"),
    ],
)
def test_what_is_not_there_ends_with_a_sentence(shell: Shell, arguments: tuple[str, ...]) -> None:
    done = shell(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: There is no ")
    assert done.stderr.endswith("(HTTP 404)\n")


@pytest.mark.parametrize("content", ["", "[]", '{"format": "other"}', "[bold]"])
def test_a_broken_file_is_told_by_its_line(shell: Shell, tmp_path: Path, content: str) -> None:
    file = tmp_path / "broken.jsonl"
    file.write_text(content, "utf-8")
    done = shell("sessions", "import", str(file))
    assert done.exit_code == 2
    assert done.stderr.startswith(("error: Line 1", "error: The file is empty"))


def test_no_server_is_told() -> None:
    nowhere = Shell(f"http://127.0.0.1:{free_port()}")
    for arguments in (("audit", "export"), ("sessions", "list"), ("approvals", "list")):
        done = nowhere(*arguments)
        assert done.exit_code == 1
        assert "Start it: fusion up" in done.stderr
