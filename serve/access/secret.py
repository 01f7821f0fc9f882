"""The installation's own secret, from which its keys' hashes and cache salts are made."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

#: Where clusters of several machines put it, the same on each.
VARIABLE = "FUSION_SECRET"
_LEAST = 32


class NoSecret(Exception):
    """There is no secret, or none that is one; the message says what to do."""


def read(folder: Path | None) -> bytes:
    """From the environment, or from `folder`, where it is made once.

    Raises NoSecret where neither is there: machines that share a store must share the secret.
    """
    given = os.environ.get(VARIABLE, "")
    if given:
        if len(given) < _LEAST:
            raise NoSecret(f"{VARIABLE} is shorter than {_LEAST} characters; make a longer one.")
        return given.encode()
    if folder is None:
        raise NoSecret(
            f"A store that several machines share needs the same secret on each: set {VARIABLE} "
            f"to at least {_LEAST} random characters."
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = folder / "secret"
    if not file.exists():
        _make(file)
    found = file.read_bytes()
    if len(found) < _LEAST:
        raise NoSecret(
            f"{file} is shorter than {_LEAST} characters. Put it back from a copy; without it no "
            "key is known any more. Where there never was a key, remove it."
        )
    return found


def _make(file: Path) -> None:
    draft = file.with_name(f".secret.{os.getpid()}")
    draft.touch(mode=0o600)
    with draft.open("w", encoding="ascii") as written:
        written.write(secrets.token_hex(32))
        written.flush()
        os.fsync(written.fileno())
    # Two processes that start at once must end up with one secret: only one link succeeds.
    try:
        os.link(draft, file)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
