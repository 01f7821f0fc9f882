"""Arrays on disk: numpy's zip format, never pickle."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
"""Features and learned numbers, in single precision."""

Doubles = NDArray[np.float64]
"""Scores, dollars and sums."""


#: What a zip file that is torn, or whose bytes were changed anywhere, may raise: it may claim to be
#: packed in a way that nobody knows, under a password, or larger than any memory.
_BROKEN = (
    *(OSError, ValueError, KeyError, EOFError, OverflowError, struct.error, zlib.error),
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, MemoryError, SyntaxError),
)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file. Raises ValueError where it is missing or broken."""
    try:
        # Opened here: numpy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except _BROKEN as error:
        raise ValueError(f"{path.name} is not a readable array file: {error}") from error
