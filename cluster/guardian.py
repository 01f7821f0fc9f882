"""Ends every process of an installation when its `fusion up` ends, however that happens.

    python -m cluster.guardian MARKER    (standard input is a pipe from `fusion up`)

The pipe closes when `fusion up` exits, is interrupted, or is killed; no signal can prevent it.
Then every process that carries the installation's marker in its environment is asked to stop,
and after a grace killed. That includes what Ray itself would leave behind: an engine whose
replica died, a proxy whose manager died. There is no second way of stopping.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.installation import MARKER

GRACE_S = 6.0
_PATIENCE_S = 4.0


def members(marker: str) -> list[int]:
    """Living processes that carry this marker, and all their descendants; not this one.

    Descendants, because a process that sets its title (as Ray's do) overwrites its environment.
    """
    return [process.pid for process in _members(marker, ())]


def sweep(marker: str, grace_s: float = GRACE_S) -> list[int]:
    """Stop all members; return those that could not be. Takes at most grace plus 4 seconds."""
    # Whoever was a member once stays one: when its parent dies, nothing else tells.
    known: set[_Process] = set()
    for sign, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _PATIENCE_S)):
        until = time.monotonic() + patience
        asked: set[_Process] = set()
        while living := _members(marker, known):
            known |= living
            # Children may appear while their parents are being stopped.
            for process in living - asked:
                asked.add(process)
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, sign)
            if time.monotonic() > until:
                break
            time.sleep(0.1)
    return [process.pid for process in _members(marker, known)]


@dataclass(frozen=True, slots=True)
class _Process:
    """A process and the moment of its start, without which a number may mean another later."""

    pid: int
    started: int


def _members(marker: str, known: Iterable[_Process]) -> set[_Process]:
    needle = f"{MARKER}={marker}".encode()
    parents: dict[_Process, int] = {}
    found = set(known)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            # The name in brackets may hold anything; what follows it are plain fields.
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            state, parent, started = fields[0], int(fields[1]), int(fields[19])
            if state in "ZX":
                continue
            process = _Process(int(entry.name), started)
            parents[process] = parent
            if needle in (entry / "environ").read_bytes().split(b"\0"):
                found.add(process)
        except OSError:
            continue  # it ended meanwhile, or is somebody else's
    found &= set(parents)
    while True:
        pids = {process.pid for process in found}
        children = {one for one, parent in parents.items() if parent in pids} - found
        if not children:
            return found
        found |= children


def main() -> None:
    """Wait for the pipe to close, then sweep."""
    # A terminal sends Ctrl-C to the whole foreground group; only the pipe decides here.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    sys.stdin.buffer.read()
    sweep(sys.argv[1])


if __name__ == "__main__":
    main()
