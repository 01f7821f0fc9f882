"""A real PostgreSQL for tests: a server of its own, on loopback, in a temporary folder."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from support import free_port


def programs() -> Path | None:
    """The folder with PostgreSQL's programs: where Debian's packages put them, or on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    other = shutil.which("initdb")
    return found[-1].parent if found else Path(other).parent if other else None


@dataclass(frozen=True, slots=True)
class Server:
    """A server and its database `fusion`, without a password."""

    binaries: Path
    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://fusion@127.0.0.1:{self.port}/fusion"

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -h 127.0.0.1"
        log = f"{self.folder}/log"
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-m", "immediate", "-w", "stop")

    def crash(self) -> None:
        """SIGKILL to the server at work, and a new start on what it left."""
        pid = int((self.folder / "data/postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        # Its processes notice and end; a new server refuses to start beside them.
        for _ in range(50):
            time.sleep(0.1)
            with suppress(AssertionError):
                self.start()
                return
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def crash_one(self, chance: random.Random) -> None:
        """SIGKILL to one of its processes; the server ends all others and recovers by itself."""
        pid = int((self.folder / "data/postmaster.pid").read_text().split()[0])
        own = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(int(chance.choice(own)), signal.SIGKILL)

    def run(self, program: str, *arguments: str) -> None:
        command = [*_as_somebody_else(self.folder), str(self.binaries / program), *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, timeout=60, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def server(binaries: Path) -> Iterator[Server]:
    """A running server; nothing of it outlives the block."""
    # A socket's path may have 107 bytes, which pytest's own folders can pass.
    with tempfile.TemporaryDirectory(prefix="fusion-pg-") as name:
        made = Server(binaries, Path(name), free_port())
        if os.getuid() == 0:
            made.folder.chmod(0o700)
            shutil.chown(made.folder, "nobody")
        made.run("initdb", "-D", f"{name}/data", "-A", "trust", "-U", "fusion", "--no-sync")
        try:
            made.start()
            made.run("createdb", "-h", "127.0.0.1", "-p", str(made.port), "-U", "fusion", "fusion")
            yield made
        finally:
            made.stop()


def _as_somebody_else(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root, so root runs it as nobody."""
    if os.getuid() != 0:
        return []
    return ["setpriv", "--reuid=nobody", "--clear-groups", "env", f"HOME={folder}"]
