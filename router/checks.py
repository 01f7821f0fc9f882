"""Checkers of an answer that need no model: shape of JSON, sums, agreement of two samples."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from models import json_schema

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_SUM = re.compile(
    rf"(?<![\w.,/*+×÷-])({_NUMBER}(?:\s*[-+*/×÷]\s*\$?{_NUMBER})+)"
    rf"\s*=\s*\$?({_NUMBER})(?![.,]?\d|\s*[-+*/×÷%^\d]|[a-z]\b)"
)
#: What before a sum says that the sum is the end of a longer term (`x - 3 + 5 = 10`), which no
#: arithmetic tells right or wrong. A mark at the beginning of a line is a list's.
_BROKEN_OFF = re.compile(
    r"(?:\S[^\S\n]*[-−+*/×÷·]|[√%^]|\d:|\b(?:of|by|plus|minus|times|over|mod|root|sqrt|log|ln))"
    r"\s*\$?$"
)
_LONGEST_LINK = 24
_TERM = re.compile(r"\s*([-+*/×÷]?)\s*\$?(\d[\d,]*(?:\.\d+)?)")
_FINAL = re.compile(rf"{_NUMBER}")
_CHOICE = re.compile(r"(?:answer\s*(?:is|:)?\s*|^)\(?([A-J])\)?(?:[.):]|\s*$)", re.I | re.M)
_WORD = re.compile(r"\w+")
#: Longest text that is looked at: what comes after is as good as what came before.
_READ = 20_000
#: The same for sums, which are costly to look for.
_SUMS_READ = 4_000
#: Part of two texts' words that must be common for them to say the same.
_ALIKE = 0.6


def is_shaped(text: str, schema: Mapping[str, Any] | None) -> bool:
    """Whether a text is JSON and, with a schema, of that shape. A schema that is itself wrong
    says nothing against the answer."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if schema is None:
        return isinstance(value, dict)
    return json_schema.problem(value, schema) is None


def sums_are_right(text: str) -> bool | None:
    """Whether the sums that a text writes out (`3 * 4 + 1 = 13`) are right. None: there is none."""
    text = text[-_SUMS_READ:]
    found = [_is_right(*match.groups()) for match in _SUM.finditer(text) if _is_whole(match, text)]
    told = [right for right in found if right is not None]
    return all(told) if told else None


def _is_whole(match: re.Match[str], text: str) -> bool:
    before = text[max(0, match.start() - _LONGEST_LINK) : match.start()]
    # After a name its minus takes away: `x -3 + 5`.
    taken = match[1].startswith("-") and re.search(r"[\w)]\s*$", before)
    return not taken and _BROKEN_OFF.search(before) is None


def _is_right(left: str, right: str) -> bool | None:
    value, stated = _value(left), float(right.replace(",", ""))
    if value is None:
        return None
    # As many decimals as were written may be rounded.
    decimals = len(right.partition(".")[2])
    return math.isclose(value, stated, rel_tol=1e-9, abs_tol=0.51 * 10.0**-decimals)


def _value(sum_: str) -> float | None:
    """Products first, then sums, from left to right."""
    total, product, place = 0.0, None, 0
    while place < len(sum_):
        term = _TERM.match(sum_, place)
        if term is None:
            return None
        place, sign, number = term.end(), term[1], float(term[2].replace(",", ""))
        if product is None:
            product = -number if sign == "-" else number
        elif sign in ("*", "×"):
            product *= number
        elif sign in ("/", "÷"):
            if number == 0.0:
                return None
            product /= number
        else:
            total += product
            product = -number if sign == "-" else number
    return total + (product or 0.0)


def say_the_same(one: str, other: str) -> bool:
    """Whether two answers to one question come to the same: equal JSON, the same option, the
    same last number, or else mostly the same words."""
    one, other = one[-_READ:].strip(), other[-_READ:].strip()
    if one == other:
        return True
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        pass
    for pattern in (_CHOICE, _FINAL):
        left, right = pattern.findall(one), pattern.findall(other)
        if left and right:
            return bool(_plain(left[-1]) == _plain(right[-1]))
    return _likeness(one, other) >= _ALIKE


def _plain(found: str) -> str:
    text = found.replace(",", "").upper()
    return text.rstrip("0").rstrip(".") if "." in text else text


def _likeness(one: str, other: str) -> float:
    left, right = Counter(_WORD.findall(one.lower())), Counter(_WORD.findall(other.lower()))
    common = (left & right).total()
    return 2.0 * common / max(1, left.total() + right.total())
