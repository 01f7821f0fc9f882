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
from pathlib import Path

from cluster.installation import MARKER

GRACE_S = 6.0
_PATIENCE_S = 4.0


def members(marker: str) -> list[int]:
    """Processes that carry this marker, without this one."""
    needle = f"{MARKER}={marker}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile, or is somebody else's
        if needle in environment:
            found.append(int(entry.name))
    return found


def sweep(marker: str, grace_s: float = GRACE_S) -> list[int]:
    """Stop all members; return those that could not be. Takes at most grace plus 4 seconds."""
    for sign, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _PATIENCE_S)):
        until = time.monotonic() + patience
        asked: set[int] = set()
        while living := members(marker):
            # Children may appear while their parents are being stopped.
            for pid in set(living) - asked:
                asked.add(pid)
                try:
                    os.kill(pid, sign)
                except ProcessLookupError:
                    continue
            if time.monotonic() > until:
                break
            time.sleep(0.1)
    return members(marker)


def main() -> None:
    """Wait for the pipe to close, then sweep."""
    # A terminal sends Ctrl-C to the whole foreground group; only the pipe decides here.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    sys.stdin.buffer.read()
    sweep(sys.argv[1])


if __name__ == "__main__":
    main()
