"""The command line as a whole: what is true of every command."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support import free_port, fusion
from typer.testing import CliRunner, Result

from cluster import installation
from models.catalog import Catalog
from serve.cli import app, server

ASKING = (
    "status",
    "status --json",
    "status --scaling",
    "models",
    "models test x",
    "ask hi",
    "ask hi --json",
    "plan hi",
    "plan hi --json",
    "plans",
    "route hi",
    "alias list",
    "history",
    "usage",
    "keys list",
    "keys create --name x",
    "sessions list",
    "chat --session x",
    "batch list",
    "batch logs x",
    "batch results x",
    "approvals list",
    "audit export",
    "show x",
    "router status",
    "router feedback x up",
    "profile x --usd-per-hour 1 --startup-s 1",
)


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this user's is read or changed."""
    for name in ("FUSION_URL", "FUSION_CATALOG", "FUSION_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("DATA", "CACHE", "CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    monkeypatch.chdir(tmp_path)


@contextmanager
def answering(status: int, kind: str, body: bytes) -> Iterator[str]:
    """A server that always says the same; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            """Not on the screen."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, input="hello\n")


def sentence(done: Result) -> str:
    """What it said on standard error, which is one sentence and no traceback."""
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    assert done.exit_code in (1, 2), done.output
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.output
    return lines[0]


@pytest.mark.parametrize("command", ASKING)
def test_what_is_wrong_with_a_server_is_one_sentence(command: str) -> None:
    wrong = b'{"error": {"message": "No API key was given.", "code": "invalid_api_key"}}'
    with answering(401, "application/json", wrong) as url:
        assert "No API key was given." in run(*command.split(), "--url", url).output
    with answering(500, "text/plain", b"Server Error") as url:
        assert f"No gateway is up behind {url} (HTTP 500)." in sentence(
            run(*command.split(), "--url", url)
        )
    with answering(404, "text/html", b"<h1>Hello</h1>") as url:
        said = sentence(run(*command.split(), "--url", url))
        assert said == f"error: What answers at {url} is no fusion server (HTTP 404)."
    nobody = f"http://127.0.0.1:{free_port()}"
    said = sentence(run(*command.split(), "--url", nobody))
    assert said == (
        f"error: No fusion server answers at {nobody} (ConnectError). Start it: fusion up"
    )


@pytest.mark.parametrize("command", ["models", "ask hi", "ask hi --json", "plan hi", "route hi"])
def test_another_programs_page_is_no_answer(command: str) -> None:
    with answering(200, "text/html", b"<h1>Hello</h1>") as url:
        said = sentence(run(*command.split(), "--url", url))
        assert said == f"error: What answers at {url} is no fusion server."


@pytest.mark.parametrize("command", ["ask hi", "plan hi"])
def test_a_stream_without_an_end_is_a_failure(command: str) -> None:
    with answering(200, "text/event-stream", b": still working\n\n") as url:
        assert sentence(run(*command.split(), "--url", url)).startswith("error: The ")


@pytest.mark.parametrize("url", ["http://host:port", "localhost:8000", "foo", "ftp://a"])
def test_what_is_no_address_says_so(url: str) -> None:
    assert sentence(run("status", "--url", url)) == (
        f"error: '{url}' is no address of a server: write it as http://127.0.0.1:8000"
    )


def test_a_key_that_no_header_can_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_API_KEY", "ключ")
    assert "FUSION_API_KEY is no key" in sentence(run("status"))


def test_another_servers_money_is_not_changed_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = ("resolve", "x", "--cost", "0")
    assert "without --url" in sentence(run("usage", "--url", "http://127.0.0.1:1", *resolve))
    monkeypatch.setenv("FUSION_URL", "http://127.0.0.1:1")
    assert "without --url" in sentence(run("usage", *resolve))


def test_the_variables_catalog_is_the_one_that_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.yaml").write_text("models: {}\n")
    monkeypatch.setenv("FUSION_CATALOG", "other.yaml")
    done = run("check")
    assert done.exit_code == 2
    assert "other.yaml" in done.stderr
    (tmp_path / "third.yaml").write_text("models: {}\n")
    for command in ("check", "apply"):
        assert "third.yaml" in run(command, "-c", "third.yaml").stderr


def test_a_policy_of_one_s_own_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text(
        "models: {m: {engine: fake}}\nroles: {judge: m}\n"
        "policies: {mine: {kind: python, function: 'nowhere.at_all:f'}}\n"
    )
    assert "policies.mine.function" in sentence(run("check", "-c", str(file)))


@pytest.mark.parametrize("ceiling", ["nan", "inf"])
def test_a_ceiling_that_is_no_number(ceiling: str) -> None:
    assert "--ceiling" in sentence(run("approvals", "approve", "apv_1", "--ceiling", ceiling))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("plans --cancel", "Say which plan"),
        ("ask hi --panel a -m b", "give --panel or --model"),
        ("keys create --expires 0d", "of no use"),
        ("keys create --project=", "needs a project"),
        ("usage --only by=model", "'by=model' is no filter"),
        ("plan x --graph q[/old].yaml", "q[/old].yaml cannot be read"),
        ("research x --sources . --out .", ". is a folder"),
        ("research x --sources . --out nowhere/x.md", "there is no folder"),
        ("profile x --usd-per-hour 1 --startup-s 1 --out .", ". is a folder"),
        ("policy explain bad.json", "bad.json: it is not JSON"),
        ("eval bad.json --systems bad.yaml", "bad.yaml:1: 'a' stands twice"),
        ("eval bad.json --systems empty.yaml", "start with 'systems:'"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, command: str, said: str) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bad.yaml").write_text("systems: {a: {model: m}, a: {model: n}}\n")
    (tmp_path / "empty.yaml").write_text("")
    done = run(*command.split())
    assert said in sentence(done)
    assert done.exit_code == 2


def test_an_argument_that_is_no_text_is_one_sentence() -> None:
    command = [*fusion("ask"), b"a\xff", "--url", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "error: What was given is not UTF-8 text.\n"


def test_it_starts_without_what_only_servers_need() -> None:
    heavy = "{'ray', 'torch', 'vllm', 'sqlalchemy', 'alembic', 'aiohttp', 'starlette', 'numpy'}"
    code = f"import sys, serve.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"


def test_a_start_in_the_background_on_a_taken_port_leaves_the_log_of_the_one_that_runs() -> None:
    with answering(200, "application/json", b"{}") as url:
        port = int(url.rpartition(":")[2])
        log = installation.folder(port) / "up.log"
        log.parent.mkdir(parents=True)
        log.write_text("what the other one said")
        done = run("up", "--detach", "--port", str(port))
    assert done.exit_code == 1
    assert f"Port {port}" in done.stderr
    assert log.read_text() == "what the other one said"


def test_who_returns_does_not_say_that_ctrl_c_stops_it(capsys: pytest.CaptureFixture[str]) -> None:
    catalog = Catalog.model_validate({"models": {"m": {"engine": "fake"}}, "roles": {"judge": "m"}})
    server._print_first_request("http://here", catalog, guarded=False)
    told = capsys.readouterr().out
    assert "http://here/v1" in told
    assert "Ctrl-C" not in told


def test_a_model_that_its_node_does_not_hold_is_named_with_the_memory_that_is_missing(
    tmp_path: Path,
) -> None:
    scaling = """
      node: {usd_per_hour: 1, startup_s: 60, accelerator_memory_gib: 24}
      replica:
        prefill_tokens_per_s: 4000
        decode: {step_base_s: 0.04, step_per_sequence_s: 0.001, max_batch: 8}
        weights_gib: 40
"""
    model = f"models:\n  large:\n    engine: fake\n    scaling:{scaling}roles: {{judge: large}}\n"
    file = tmp_path / "catalog.yaml"
    file.write_text(model)
    said = sentence(run("check", str(file)))
    assert "model large fits no node type" in said
    assert "missing 16.0" in said
    file.write_text(model.replace("24", "48"))
    assert run("check", str(file)).exit_code == 0
