"""A real PostgreSQL for tests: a server of its own, on loopback, in a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import free_port


def programs() -> Path | None:
    """The folder with PostgreSQL's programs: where Debian's packages put them, or on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    other = shutil.which("initdb")
    return found[-1].parent if found else Path(other).parent if other else None


@contextmanager
def server(binaries: Path) -> Iterator[str]:
    """The address of a running server's database `fusion`, without a password."""
    # A socket's path may have 107 bytes, which pytest's own folders can pass.
    with tempfile.TemporaryDirectory(prefix="fusion-pg-") as name:
        folder = Path(name)
        prefix = _as_somebody_else(folder)
        port = free_port()

        def run(program: str, *arguments: str) -> None:
            command = [*prefix, str(binaries / program), *arguments]
            done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, text=True)
            assert done.returncode == 0, done.stdout + done.stderr

        run("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "fusion", "--no-sync")
        options = f"-p {port} -k {folder} -h 127.0.0.1"
        log = f"{folder}/log"
        try:
            run("pg_ctl", "-D", f"{folder}/data", "-o", options, "-l", log, "-w", "start")
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "fusion", "fusion")
            yield f"postgresql://fusion@127.0.0.1:{port}/fusion"
        finally:
            run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "-w", "stop")


def _as_somebody_else(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root, so root runs it as nobody."""
    if os.getuid() != 0:
        return []
    folder.chmod(0o700)
    shutil.chown(folder, "nobody")
    return ["setpriv", "--reuid=nobody", "--clear-groups", "env", f"HOME={folder}"]
