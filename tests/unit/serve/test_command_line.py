"""The command line as a whole: what is true of every command."""

from __future__ import annotations

import subprocess
import sys

from support import fusion


def test_an_argument_that_is_no_text_is_one_sentence() -> None:
    command = [*fusion("ask"), b"a\xff", "--url", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "error: Something given on the command line is not UTF-8 text.\n"


def test_it_starts_without_what_only_servers_need() -> None:
    heavy = "{'ray', 'torch', 'vllm', 'sqlalchemy', 'alembic', 'aiohttp', 'starlette', 'numpy'}"
    code = f"import sys, serve.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"
