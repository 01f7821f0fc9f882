"""What the router sees of a prompt: its surface, hashed n-grams and, if installed, an embedding.

The surface is what holds on subjects that were never seen: form, length, numbers, options,
rarity of words. All of it is generic: no task's name, no benchmark's phrase.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from router.arrays import Floats
from router.reading import VOCABULARY, Reading

BUCKETS = 4_096
"""Hash buckets of word n-grams."""

_PRIME = 2_147_483_647

_OPTION = re.compile(r"^[ \t]*\(?([A-Ja-j1-9])[).:][ \t]+(.*)$", re.MULTILINE)
_INLINE_OPTION = re.compile(r"\(([A-Ja-j])\)[ \t]*([^(\n]*)")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]+")
_NUMERIC = bytes(c if c in b"0123456789.," else 32 for c in range(256))

_GROUP_LINES = """
negation: not no never except none neither nor without false incorrect least
which: which what
amount: how many much
reason: why because explain reason therefore
condition: if then suppose assume given unless when
quantifier: all every each any some most more less than only
person: i he she his her they my we you
statement: following these statement statements true correct
arithmetic: total left per average cost percent sum twice half times
code: def return function list print int string array class import
article: the a an
preposition: of in to for by
"""
_GROUPS: dict[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in (line.split(":") for line in _GROUP_LINES.strip().splitlines())
}
"""Words of form rather than of subject, each group one feature."""

SURFACE_NAMES: tuple[str, ...] = (
    *("characters", "words", "word_length", "newlines", "questions", "sentences"),
    *("sentence_length", "vocabulary", "blank", "ends_asking"),
    *("digits", "capitals", "marks", "symbols", "brackets", "backslashes", "quotes", "foreign"),
    *("numbers", "largest_number", "decimals"),
    *("options", "option_length", "longest_option", "option_spread", "option_overlap"),
    *("numeric_options", "options_in_stem", "stem_length"),
    *("rarity", "rarity_high", "rarity_top", "pieces_per_word", "superlatives"),
    *_GROUPS,
)

SURFACE = len(SURFACE_NAMES)
"""Numbers in `surface`."""

_CLASSES = np.zeros((8, 256), dtype=np.float32)
for _row, _characters in enumerate(
    (b"0123456789", bytes(range(65, 91)), b".,;:", b"+-*/=^<>|%$", b"(){}[]", b"\\", b"\"'`")
):
    _CLASSES[_row, list(_characters)] = 1.0
_CLASSES[7, 128:] = 1.0
_LOG_RANK = [math.log(rank + 1.0) for rank in range(VOCABULARY)]


def surface(reading: Reading) -> Floats:
    """Counts and proportions of a prompt's form, (SURFACE,), in the order of `SURFACE_NAMES`."""
    text, words = reading.text, reading.words
    counts = Counter(words)
    lines, inline = _OPTION.findall(text), _INLINE_OPTION.findall(text)
    options = [body.strip() for _, body in (lines if len(lines) >= 2 else inline)]
    stem = _OPTION.sub("", text) if lines else text
    stem = _INLINE_OPTION.sub("", stem) if inline else stem
    numbers = _numbers_in(text)
    size = len(words) + 1
    values = [
        *_shape(reading, stem, len(counts)),
        *_characters_of(text),
        *_numbers_of(numbers),
        *_options_of(options, stem),
        *_rarity_of(reading.tokens, size + len(numbers)),
        math.log1p(sum(count for word, count in counts.items() if word.endswith("est"))),
    ]
    for name, group in _GROUPS.items():
        found = sum(counts[word] for word in group if word in counts)
        often = name in ("article", "preposition")
        values.append(found / size if often else math.log1p(found))
    return np.array(values, dtype=np.float32)


def ngrams(reading: Reading) -> Floats:
    """Damped counts of hashed words and word pairs, (BUCKETS,), of unit length.

    Log of the term frequency as in TF-IDF; the inverse document frequency is the model's to
    apply. Digits stand alone, so that a number is its form and not its value.
    """
    codes = np.array(reading.codes, np.int64)
    # A pair's code mixes its words' codes, so that no pair is spelt out.
    codes = np.concatenate([codes, (31 * codes[:-1] + codes[1:]) % _PRIME])
    row = np.bincount(codes % BUCKETS, minlength=BUCKETS).astype(np.float32)
    row = np.log1p(row)
    row /= max(float(np.linalg.norm(row)), 1e-9)
    return row


def _shape(reading: Reading, stem: str, distinct: int) -> tuple[float, ...]:
    text, words = reading.text, reading.words
    size = len(words) + 1
    ends = stem.replace("!", ".").replace("?", ".").replace("\n", ".")
    sentences = sum(1 for part in ends.split(".") if part.strip())
    return (
        math.log(reading.size + 1),
        math.log(size),
        sum(map(len, words)) / size,
        math.log1p(text.count("\n")),
        math.log1p(text.count("?") + text.count("？")),
        math.log1p(sentences),
        math.log1p(len(stem) / (sentences + 1)),
        distinct / size**0.8,
        float("__" in text),
        float(stem.rstrip()[-1:] in ("?", "？")),
    )


def _characters_of(text: str) -> list[float]:
    octets = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    counts = _CLASSES @ np.bincount(octets, minlength=256).astype(np.float32)
    share: list[float] = (counts / (len(octets) + 1)).tolist()
    share[5] = math.log1p(float(counts[5]))
    return share


def _numbers_in(text: str) -> list[str]:
    if text.isascii():
        # All but digits and their marks is blanked first: much quicker than to search all of it.
        text = " ".join(text.encode().translate(_NUMERIC).decode().split())
    return _NUMBER.findall(text)


def _numbers_of(numbers: Sequence[str]) -> tuple[float, float, float]:
    plain = [number.replace(",", "")[:18] for number in numbers[:40]]
    values = [float(number) for number in plain if number.count(".") <= 1]
    if not values:
        return math.log1p(len(numbers)), 0.0, 0.0
    decimals = sum(value % 1.0 != 0.0 for value in values) / len(values)
    return math.log1p(len(numbers)), math.log1p(max(values)), decimals


def _options_of(options: Sequence[str], stem: str) -> tuple[float, ...]:
    stem_length = math.log1p(len(stem))
    if not options:
        return (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, stem_length)
    options = options[:12]
    lengths = [len(option) for option in options]
    mean = sum(lengths) / len(lengths)
    spread = math.sqrt(sum((length - mean) ** 2 for length in lengths) / len(lengths))
    bags = [frozenset(_WORD.findall(option.lower())) for option in options]
    pairs = [(a, b) for index, a in enumerate(bags) for b in bags[:index]]
    overlap = sum(len(a & b) / max(1, len(a | b)) for a, b in pairs) / max(1, len(pairs))
    asked = frozenset(_WORD.findall(stem.lower()))
    return (
        float(len(options)),
        math.log1p(mean),
        math.log1p(max(lengths)),
        spread / (mean + 1.0),
        overlap,
        sum(_NUMBER.search(option) is not None for option in options) / len(options),
        sum(len(bag & asked) / max(1, len(bag)) for bag in bags) / len(options),
        stem_length,
    )


def _rarity_of(tokens: Sequence[int], words: int) -> tuple[float, float, float, float]:
    """How rare the words are: WordPiece ids are ordered by how often the piece occurs."""
    logs = sorted(_LOG_RANK[token] for token in tokens[1:-1])
    if not logs:
        return 0.0, 0.0, 0.0, 0.0
    # Marks, digits and letters have the lowest ids and say nothing of rarity.
    whole = [log for log in logs if log > _LOG_RANK[1_998]] or logs
    count = len(logs)
    return sum(whole) / len(whole), logs[int(0.9 * (count - 1))], logs[-1], count / words
