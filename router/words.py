"""What words mean by themselves, for where no sentence encoder is installed: a small table.

It was distilled from the encoder (as in Model2Vec, Tulkens and van Dongen 2024): each piece of the
vocabulary went through it alone, and the directions in which common pieces differ most were kept,
one byte each. It knows words that no training prompt had, which counts of n-grams
do not; those know the words of one's own trade.
`python -m router.words` makes the table anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.arrays import Doubles, Floats, read_arrays
from router.encoder import ALL_LAYERS, TAIL, WIDTH, Encoder, load_encoder
from router.reading import VOCABULARY, Reading, read

AXES = 32
"""Numbers of a piece, and of a prompt."""

TABLE = Path(__file__).with_name("weights") / "words.npz"

_MARKS, _WORDS = 1_000, 1_998
"""The vocabulary begins with reserved places, then letters and marks; words from the second on."""
_BATCH = 256


def meaning(reading: Reading) -> Floats:
    """The mean of a prompt's last `TAIL` pieces, of unit length, (AXES,); zeros of an empty one.

    As with the encoder, the end told more than the whole did.
    """
    found: Floats = _table()[reading.tokens[1:-1][-TAIL:]].sum(axis=0)
    return found / max(float(np.linalg.norm(found)), 1e-9)


def distil(encoder: Encoder) -> Floats:
    """The table, (VOCABULARY, AXES), of an encoder."""
    pieces = np.arange(VOCABULARY)
    alone = np.concatenate(
        [_alone(encoder, pieces[first : first + _BATCH]) for first in range(0, len(pieces), _BATCH)]
    ).astype(np.float64)
    weight = _commonness()[:, None]
    centred = alone - (alone * weight).sum(axis=0) / weight.sum()
    _, directions = np.linalg.eigh((centred * weight).T @ centred)
    table: Floats = (centred @ directions[:, ::-1][:, :AXES]).astype(np.float32)
    return table


def _alone(encoder: Encoder, pieces: Sequence[int] | NDArray[np.intp]) -> Floats:
    """What the encoder says of pieces by themselves, (len(pieces), WIDTH), of unit length."""
    first, last = read("").tokens
    mean = encoder.states([[first, int(piece), last] for piece in pieces]).mean(axis=1)
    unit: Floats = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)
    return unit.reshape(-1, WIDTH)


def _commonness() -> Doubles:
    """How much each piece counts: ids are ordered by how often a piece occurs (Zipf)."""
    weight = np.zeros(VOCABULARY)
    weight += 1.0 / (np.arange(VOCABULARY) + 1_000.0)
    weight[:_MARKS] = 0.0
    weight[_MARKS:_WORDS] *= 0.3
    return weight


def save(table: Floats, path: Path) -> None:
    """Write a table, a byte for each number."""
    scale = np.abs(table).max(axis=0) / 127.0
    codes = np.round(table / scale).astype(np.int8)
    np.savez_compressed(path, allow_pickle=False, codes=codes, scale=scale.astype(np.float32))


@lru_cache(maxsize=1)
def _table() -> Floats:
    stored = read_arrays(TABLE)
    table: Floats = stored["codes"].astype(np.float32) * stored["scale"]
    return table


def main() -> None:
    """Make the table of the installed encoder."""
    encoder = load_encoder(ALL_LAYERS)
    if encoder is None:
        raise SystemExit("the sentence encoder is not installed")
    save(distil(encoder), TABLE)


if __name__ == "__main__":
    main()
