"""Whether rows were seen in training: the least hashes of its prompts tell, and tell no prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

SIZE = 1_024
"""Hashes that are kept, 8 bytes each."""

FEWEST = 10
"""Prompts below the greatest kept hash from which a part can be told."""

Sketch = NDArray[np.uint64]
"""Sorted hashes."""


def sketch(prompts: Iterable[str]) -> Sketch:
    """The least `SIZE` hashes of distinct prompts."""
    return np.array(sorted({_hash(prompt) for prompt in prompts})[:SIZE], np.uint64)


def part_seen(kept: Sketch, prompts: Iterable[str]) -> float | None:
    """The part of prompts that were among those of a sketch, 0 to 1; None where too few of them
    could be told."""
    if not len(kept):
        return None
    # A small training set is kept whole: then every prompt can be told.
    last = int(kept[-1]) if len(kept) == SIZE else 2**64
    known = {int(one) for one in kept}
    told = [one for one in (_hash(prompt) for prompt in prompts) if one <= last]
    if len(told) < FEWEST:
        return None
    return sum(one in known for one in told) / len(told)


def _hash(prompt: str) -> int:
    text = " ".join(prompt.lower().split())
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")
