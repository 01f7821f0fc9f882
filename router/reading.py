"""A prompt as it is read, once for all that look at it: its words, their codes and its pieces.

Of a long prompt only the start and the end are read, so that a decision takes no longer for a
book than for a page.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

from router.arrays import read_arrays

READ_CHARACTERS = 800
"""Of a longer prompt, this many from its start and as many from its end are read."""

VOCABULARY = 30_522
"""Pieces of words that are known, ordered by how often they occur."""

TOKENS = 96
"""Pieces that are read at most. The encoder was trained with 128; 96 measured as good, in 2/3 the
time."""

_HEAD = 30
_CHINESE = "\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[^\W_{_CHINESE}]+|[{_CHINESE}]|[^\w\s]|_")
_PART = re.compile(r"[^\W\d_]+|\d|[^\w\s]")
_LETTER = re.compile(r"[^\W\d_]")
_UNMARKED = frozenset("abcdefghijklmnopqrstuvwxyz0123456789 \t\n\v\f\r\x1c\x1d\x1e\x1f")
_CLS, _SEP, _UNKNOWN = 101, 102, 100
_LONGEST_WORD = 100


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read of a prompt.

    size: characters of the whole prompt. text: the part that is read. words: its runs of letters,
    lower-cased. codes: a number for each of its words, digits and marks. tokens: WordPiece ids
    with [CLS] and [SEP], at most `TOKENS`; the middle of more is left out, since what is asked
    stands at the end.
    """

    size: int
    text: str
    words: list[str]
    codes: list[int]
    tokens: list[int]


def read(prompt: str) -> Reading:
    """Read any text."""
    text = readable(prompt)
    lower = text.lower()
    words, codes, pieces = _cut_plain(lower) if lower.isascii() else _cut(lower)
    if len(pieces) > TOKENS - 2:
        pieces = pieces[:_HEAD] + pieces[_HEAD + 2 - TOKENS :]
    return Reading(len(prompt), text, words, codes, [_CLS, *pieces, _SEP])


def readable(prompt: str) -> str:
    """The part of a prompt that is read: all of it, or its start and its end."""
    if len(prompt) <= 2 * READ_CHARACTERS:
        return prompt
    return prompt[:READ_CHARACTERS] + "\n" + prompt[-READ_CHARACTERS:]


_Cut = tuple[list[str], list[int], list[int]]


def _cut(lower: str) -> _Cut:
    """Words, codes and pieces of a lower-cased text.

    Pieces are of Devlin et al. 2019, the uncased vocabulary: without accents, each mark and each
    Chinese character a word, of each word the longest known piece first.
    """
    parts = _PART.findall(lower)
    bare = "".join(c for c in unicodedata.normalize("NFD", lower) if not unicodedata.combining(c))
    return (
        [part for part in parts if _LETTER.match(part)],
        [_code(part) for part in parts],
        [piece for word in _TOKEN.findall(bare) for piece in _pieces(word)],
    )


def _cut_plain(lower: str) -> _Cut:
    """The same of ASCII, where one cut serves all three: parting at blanks is the quickest."""
    for mark in set(lower) - _UNMARKED:
        lower = lower.replace(mark, f" {mark} ")
    found = [_cut_word(word) for word in lower.split()]
    words, codes, pieces = zip(*found, strict=True) if found else ((), (), ())
    return [*chain(*words)], [*chain(*codes)], [*chain(*pieces)]


@lru_cache(maxsize=32_768)
def _cut_word(word: str) -> tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    words, codes, pieces = _cut(word)
    return tuple(words), tuple(codes), tuple(pieces)


@lru_cache(maxsize=32_768)
def _code(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "replace"))


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
