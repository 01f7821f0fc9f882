"""What a process set aside and not yet told the store, on its own disk.

A store may be far away, so calls leave on leased budget without asking it. This file is how
their reservations outlive a killed process: one line when a call leaves, one when it ended, and
the file is emptied when the store knows all. It is locked by its process, so whoever gets the
lock knows that the process is dead, and may settle what it left.

Lines survive the process, not a power failure; there the whole lease counts as unknown.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from models.call import new_id
from models.errors import StoreUnavailable
from models.messages import Usage
from serve.money.ledger import Entry

#: Above this the file is written anew with what is still open.
_COMPACT_BYTES = 4_000_000


@dataclass(slots=True)
class Left:
    """What a dead process left, by lease: calls that ended, and calls whose end nobody knows."""

    ended: dict[str, list[tuple[Entry, int]]] = field(default_factory=dict)
    open: dict[str, list[tuple[Entry, int]]] = field(default_factory=dict)


class Journal:
    """The journal of this process, at `path`. Made and locked at once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self._file = _create(path)
        self._lines: dict[str, bytes] = {}
        self._size = 0
        self._torn = False

    def opened(self, entry: Entry, lease: str, worst: int) -> None:
        """A call is about to leave. Raises StoreUnavailable if that cannot be written: the call
        must not leave."""
        line = _line({"o": entry.id, "l": lease, "n": worst, "e": content_of(entry)})
        try:
            self._write(line)
        except OSError as error:
            raise StoreUnavailable(
                f"The ledger's journal cannot be written: {error.strerror}", retry_after_s=1.0
            ) from None
        self._lines[entry.id] = line

    def ended(self, entry: Entry) -> None:
        """A call is over and costs what the entry says."""
        used, cost = content_of(entry.usage), entry.nano_usd
        line = _line({"c": entry.id, "u": used, "n": cost, "b": entry.basis})
        self._lines[entry.id] = self._lines.get(entry.id, b"") + line
        # A full disk here only means that a crash before the next settlement makes an unknown.
        with suppress(OSError):
            self._write(line)

    def settled(self, entry_ids: list[str]) -> None:
        """The store knows these."""
        for entry_id in entry_ids:
            self._lines.pop(entry_id, None)
        with suppress(OSError):
            if not self._lines:
                os.ftruncate(self._file, 0)
                self._size = 0
            elif self._size > _COMPACT_BYTES:
                self._compact()

    def close(self) -> None:
        """Let go of the file; remove it if there is nothing left in it."""
        if not self._lines:
            self.path.unlink(missing_ok=True)
        os.close(self._file)
        # The number may soon be another file's: what is still written must not end up there.
        self._file = -1

    def _write(self, line: bytes) -> None:
        whole = b"\n" + line if self._torn else line
        self._torn = True
        self._size += len(whole)
        _write_all(self._file, whole)
        self._torn = False

    def _compact(self) -> None:
        file = _create(self.path, b"".join(self._lines.values()))
        os.close(self._file)
        self._file, self._size, self._torn = file, 0, False


def _create(path: Path, content: bytes = b"") -> int:
    """A new journal, locked and written before it has its name: at no time is there one of ours
    that is not locked, or not whole."""
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _write_all(file, content)
        draft.replace(path)
    except OSError:
        os.close(file)
        draft.unlink(missing_ok=True)
        raise
    return file


def _write_all(file: int, content: bytes) -> None:
    """A full disk takes a part and says nothing."""
    if os.write(file, content) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


_NAMES = {kind: tuple(field.name for field in fields(kind)) for kind in (Entry, Usage)}


def content_of(record: Entry | Usage) -> dict[str, Any]:
    """What a record is written as."""
    # dataclasses.asdict copies every value deeply, which would be most of what a call costs here.
    content = {name: getattr(record, name) for name in _NAMES[type(record)]}
    if isinstance(record, Entry):
        content["usage"] = content_of(record.usage)
    return content


def folder(store: URL) -> Path:
    """Where the processes of this machine that use this store keep their journals: beside a
    store in a file, and else in the user's own folder of states."""
    if store.drivername == "sqlite" and store.database is not None:
        return Path(store.database).expanduser().absolute().parent / "journals"
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    name = hashlib.sha256(store.render_as_string().encode()).hexdigest()[:12]
    return Path(base).expanduser() / "fusion" / "journals" / name


def new_holder() -> str:
    """A name for a process, and so for its journal, that says since which start of the machine
    it runs."""
    return f"{new_id('till')}-{_boot()}"


def outlived_the_machine(holder: str) -> bool:
    """Whether the machine was started anew since: the last lines may then be lost."""
    return not holder.endswith(f"-{_boot()}")


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    return "unknown"


def abandoned(folder: Path) -> Iterator[tuple[Path, Left]]:
    """The journals of dead processes, each locked while it is being looked at. Who has settled
    one removes it."""
    for path in sorted(folder.glob("*.journal")):
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its process may have removed or renewed it between the two.
            with suppress(FileNotFoundError):
                if os.fstat(file).st_ino != path.stat().st_ino:
                    continue
                yield path, read(path.read_bytes())
        except BlockingIOError:
            continue
        finally:
            os.close(file)


def read(raw: bytes) -> Left:
    """What a journal says. A last line that was cut off is a call that never left."""
    opened: dict[str, tuple[str, int, Entry]] = {}
    ended: dict[str, Entry] = {}
    for line in raw.splitlines():
        try:
            said = json.loads(line)
            if "o" in said:
                entry = Entry(**said["e"])
                entry = replace(entry, usage=Usage(**said["e"]["usage"]))
                opened[said["o"]] = (said["l"], said["n"], entry)
            else:
                _, _, entry = opened[said["c"]]
                used = Usage(**said["u"])
                ended[entry.id] = replace(entry, usage=used, nano_usd=said["n"], basis=said["b"])
        except (ValueError, KeyError, TypeError):
            continue
    left = Left()
    for entry_id, (lease, worst, entry) in opened.items():
        kind = left.ended if entry_id in ended else left.open
        kind.setdefault(lease, []).append((ended.get(entry_id, entry), worst))
    return left
