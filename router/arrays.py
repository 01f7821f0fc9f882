"""Arrays on disk: numpy's zip format, never pickle."""

from __future__ import annotations

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


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file. Raises ValueError where it is missing or broken."""
    try:
        # Opened here: numpy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} is not a readable array file: {error}") from error
