"""`fusion batch` against a real server, on input and folders that are not as they should be."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import stores
import uvicorn
from batch_site import batch_site
from click.testing import Result
from pyarrow import parquet
from starlette.requests import HTTPConnection
from support import free_port
from typer.testing import CliRunner

from models.answerer import SystemClock
from serve.access.caller import Caller
from serve.cli import app
from serve.jobs.batches import Batches
from serve.jobs.fake import FakeAsker
from serve.jobs.files import Files
from serve.jobs.runner import Runner
from serve.jobs.starter import Inline

GOOD = "".join(json.dumps({"id": name, "prompt": f"say {name}"}) + "\n" for name in "abc")


@dataclass
class Shell:
    """Runs commands against a server whose batches somebody answers at once."""

    folder: Path
    port: int = field(default_factory=free_port)
    asker: FakeAsker = field(default_factory=FakeAsker)

    def __call__(self, *words: str | Path, project: str = "default") -> Result:
        command = ["batch", *map(str, words), "--url", f"http://127.0.0.1:{self.port}"]
        return CliRunner().invoke(app, command, env={"FUSION_API_KEY": project})

    def does(self, *words: str | Path) -> str:
        done = self(*words)
        assert done.exit_code == 0, done.output
        return done.stdout

    def refuses(self, status: int, *words: str | Path, project: str = "default") -> str:
        """What it says on standard error, and nothing else."""
        done = self(*words, project=project)
        assert (done.exit_code, done.exception.__class__) == (status, SystemExit), done.output
        assert done.stderr.startswith("error: ")
        return done.stderr

    def file(self, text: str = GOOD) -> Path:
        path = self.folder / "in.jsonl"
        path.write_text(text)
        return path

    def submitted(self, *words: str | Path, text: str = GOOD) -> str:
        card = json.loads(self.does("submit", self.file(text), "--model", "m", *words, "--json"))
        assert card["status"] == "completed"
        return str(card["id"])

    def batches(self) -> list[str]:
        return [card["id"] for card in json.loads(self.does("list", "--json"))]

    async def serve(self, begun: list[uvicorn.Server]) -> None:
        async def guard(asked: HTTPConnection) -> Caller:
            return Caller(project=asked.headers["authorization"].removeprefix("Bearer "))

        async with stores.empty(f"sqlite:///{self.folder}/store.db") as database:
            clock = SystemClock()
            batches, files = Batches(database, clock), Files(database, clock)
            jobs = Inline(lambda: Runner(batches, files, self.asker, clock))
            site = batch_site(batches, files, jobs, guard)
            begun.append(
                uvicorn.Server(uvicorn.Config(site, "127.0.0.1", self.port, log_level="warning"))
            )
            await begun[0].serve()
            await asyncio.gather(*jobs.tasks.values())


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made, servers = Shell(tmp_path), list[uvicorn.Server]()
    thread = threading.Thread(target=asyncio.run, args=(made.serve(servers),), daemon=True)
    thread.start()
    while not servers or not servers[0].started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield made
    servers[0].should_exit = True
    thread.join(10)


def answers(folder: Path) -> list[str]:
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [json.loads(line)["answer"] for line in lines]


def test_a_broken_line_is_told_by_its_number_and_stops_it_or_not(shell: Shell) -> None:
    text = GOOD.replace('"prompt"', "prompt", 1) + '{"id": "d", "prom'
    out = shell.folder / "out"
    shell.does("submit", shell.file(text), "--model", "m", "--out", out)
    assert answers(out) == [None, "b", "c", None]
    stopped = shell("submit", shell.file(text), "--model", "m", "--on-bad-row", "stop")
    assert stopped.exit_code == 1
    assert "line 1: The line is not JSON" in stopped.stdout
    assert "line 4: " in stopped.stdout
    assert len(shell.asker.asked) == 2


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_full_disk_loses_nothing(shell: Shell, form: str) -> None:
    out = shell.folder / "out"
    out.mkdir()
    # As large as it may get already: what is written there is refused as on a full disk.
    (out / "results.part").symlink_to("/dev/full")
    said = shell.refuses(1, "submit", shell.file(), "--model", "m", "--out", out, "--format", form)
    (batch,) = shell.batches()
    assert "No space left on device" in said
    assert f"The server keeps them: fusion batch results {batch} --out FOLDER" in said
    shell.does("results", batch, "--out", out, "--format", form)
    if form == "jsonl":
        assert answers(out) == ["a", "b", "c"]
    else:
        rows = parquet.read_table(out / "results.parquet").to_pylist()
        assert [row["answer"] for row in rows] == ["a", "b", "c"]
    assert len(shell.asker.asked) == 3


def test_a_server_whose_disk_takes_no_file_says_so(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(shell.folder / "gone"))
    said = shell.refuses(1, "submit", shell.file(GOOD * 20_000), "--model", "m")
    assert "The server cannot take the file in: No such file or directory." in said
    assert shell.batches() == []


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_asked(shell: Shell) -> None:
    for folder in (Path("/proc/nobody"), shell.file()):
        said = shell.refuses(2, "submit", shell.file(), "--model", "m", "--out", folder)
        assert f"error: {folder}" in said
    assert shell.batches() == []


def test_the_folder_of_another_batch_is_left_alone(shell: Shell) -> None:
    first, out = shell.folder / "out", shell.folder / "other"
    batch = shell.submitted("--out", first)
    other = shell.submitted("--out", out, text=GOOD.replace("say", "say it:"))
    before = (first / "results.jsonl").read_bytes()
    said = shell.refuses(2, "submit", shell.file(), "--model", "m", "--out", first)
    assert f"holds the results of {batch}" in said
    for words in (("results", other), ("resume", other)):
        shell.refuses(2, *words, "--out", first)
    assert (first / "results.jsonl").read_bytes() == before
    assert len(shell.batches()) == 2


def test_a_batch_of_another_project_is_not_there(shell: Shell) -> None:
    batch = shell.submitted()
    for command in ("status", "logs", "cancel", "resume", "results"):
        assert "no batch" in shell.refuses(2, command, batch, project="another")
    assert json.loads(shell("list", "--json", project="another").stdout) == []


def files(shell: Shell) -> list[str]:
    import httpx

    told = httpx.get(
        f"http://127.0.0.1:{shell.port}/v1/files", headers={"authorization": "Bearer default"}
    )
    return [file["filename"] for file in told.json()["data"]]


def test_a_model_that_nobody_knows_leaves_nothing_behind(shell: Shell) -> None:
    said = shell.refuses(2, "submit", shell.file(), "--model", "nobody")
    assert "No model, alias or panel" in said
    assert (shell.batches(), files(shell)) == ([], [])


def test_a_file_that_changes_while_it_is_read_is_refused(shell: Shell) -> None:
    path, over = shell.file(GOOD * 200_000), threading.Event()

    def grow() -> None:
        with path.open("a") as more:
            while not over.is_set():
                more.write(GOOD)
                more.flush()
                time.sleep(0.001)

    growing = threading.Thread(target=grow)
    growing.start()
    try:
        said = shell.refuses(2, "submit", path, "--model", "m")
    finally:
        over.set()
        growing.join()
    assert "changed while it was read. Submit it again when it is done." in said
    assert (shell.batches(), files(shell)) == ([], [])


def test_one_that_changes_without_growing_too(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve.jobs.remote import Remote

    sent, path = Remote.upload, shell.file()

    def upload(remote: Remote, name: str, content: Any) -> str:
        file = sent(remote, name, content)
        path.write_text(GOOD.replace("say", "sag"))
        return file

    monkeypatch.setattr(Remote, "upload", upload)
    assert "changed while it was read" in shell.refuses(2, "submit", path, "--model", "m")
    assert (shell.batches(), files(shell)) == ([], [])


@pytest.mark.parametrize("name", ["nothing.jsonl", "."])
def test_a_file_that_cannot_be_read(shell: Shell, name: str) -> None:
    said = shell.refuses(2, "submit", shell.folder / name, "--model", "m")
    assert str(shell.folder / name) in said
    assert shell.batches() == []


def test_no_server_is_told() -> None:
    done = CliRunner().invoke(app, ["batch", "list", "--url", "http://127.0.0.1:1"])
    assert done.exit_code == 1
    assert "No fusion server answers at" in done.stderr
