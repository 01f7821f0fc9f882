"""The README's first command on a fresh clone, in a folder with a space, twice in a row."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support import free_port

from cluster import guardian, installation

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / ".git").exists():
        pytest.skip("this copy is no git repository, so there is nothing to clone")
    folder = tmp_path_factory.mktemp("two commands") / "a fresh clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True, timeout=120)
    return folder


@pytest.mark.timeout(1200)
def test_make_run_ends_with_a_curl_that_works(clone: Path) -> None:
    for turn in ("first", "second"):
        port = free_port()
        log = clone.parent / f"{turn}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                ["make", "run", f"ARGS=--port {port}"],
                cwd=clone,
                env={**os.environ, "VIRTUAL_ENV": ""},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            curl = _printed_curl(log, process)
            if turn == "first":
                _check(curl)
            made = installation.find(port)
            assert made is not None
        finally:
            # As Ctrl-C in a terminal: to the whole foreground group.
            os.killpg(process.pid, signal.SIGINT)
            began = time.monotonic()
            process.wait(30)
        while guardian.members(made.marker):
            assert time.monotonic() - began < 20
            time.sleep(0.2)
    # The second time there was nothing left to install or to convert.
    assert "Installing" not in log.read_text()
    assert "Preparing" not in log.read_text()
    shutil.rmtree(clone / ".venv")


def _check(curl: str) -> None:
    """The printed command brings a fused answer."""
    said = subprocess.run(
        shlex.split(curl), capture_output=True, text=True, timeout=400, check=True
    )
    answer = json.loads(said.stdout)
    assert answer["choices"][0]["message"]["content"]
    assert answer["fusion"]["panel"] == "default"


def _printed_curl(log: Path, process: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + 500
    while time.monotonic() < until:
        text = log.read_text(errors="replace")
        if found := re.search(r"^\s+(curl .+)$", text, re.M):
            return found[1]
        assert process.poll() is None, text
        time.sleep(0.3)
    raise AssertionError(f"no curl within 500 s:\n{log.read_text()}")
