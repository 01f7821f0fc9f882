"""Citations for the statements of a report that cite nothing. Pure.

A small model says what its sources say and forgets to name them. Where a statement has nearly all
its words, its numbers and its negations from one sentence of a source, that sentence is cited
behind it. It is a likeness of words and no understanding: the document says which those are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serve.evaluation.evidence import CITATION, Checked, Citation, Stored, flat, sentences

#: A statement's own words, and how many of them stand in the sentence, at least.
_LEAST_WORDS, _LEAST_SHARE = 4, 0.75
_STATEMENTS = re.compile(r"(?<=[.!?])\s+(?=\S)")
_FENCE = re.compile(r"^\s*(```|~~~)")
#: Headings, tables and quoted lines are no statements of the report's own.
_APART = re.compile(r"^\s*(#|\||>)")
_NEGATIONS = frozenset(["no", "not", "never", "none", "nor", "neither", "without", "cannot"])


@dataclass(frozen=True, slots=True)
class _Sentence:
    number: int
    text: str
    words: frozenset[str]


def attributed(report: Checked, sources: Sequence[Stored]) -> Checked:
    """The report with a citation behind each statement that is a sentence of a source in words."""
    known = [
        _Sentence(number, text, _words(text))
        for number, source in enumerate(sources, 1)
        for text in sentences(source.text)
    ]
    placed: list[Citation] = []
    lines = []
    for line, is_prose in _lines(report.text):
        if not is_prose or CITATION.search(line):
            lines.append(line)
            continue
        parts = []
        for statement in _STATEMENTS.split(line):
            found = _source_of(statement, known)
            if found is not None:
                placed.append(Citation(found.number, found.text))
                statement = f'{statement} [{found.number}: "{found.text}"]'
            parts.append(statement)
        lines.append(" ".join(parts))
    return Checked("\n".join(lines), report.kept, report.removed, tuple(placed))


def without_repeats(text: str) -> tuple[str, int]:
    """The text without the statements that it has made before, and how many those were.

    A small model that loses its thread says one sentence until its tokens end.
    """
    said: set[str] = set()
    lines: list[str] = []
    repeats = 0
    for line, is_prose in _lines(text):
        # A citation may hold the end of a sentence: such a line is taken as a whole.
        parts = [line] if CITATION.search(line) else _STATEMENTS.split(line)
        keys = [flat(one) for one in parts] if is_prose else []
        again = [len(key.split()) >= _LEAST_WORDS and key in said for key in keys]
        said.update(keys)
        if any(again):
            repeats += sum(again)
            line = " ".join(one for one, old in zip(parts, again, strict=True) if not old)
        if line.strip() or (lines and lines[-1].strip() and not any(again)):
            lines.append(line)
    return ("\n".join(lines), repeats) if repeats else (text, 0)


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it is prose: no code, no heading, no table, no quoted line."""
    in_code = False
    for line in text.split("\n"):
        fence = _FENCE.match(line) is not None
        in_code ^= fence
        yield line, not (fence or in_code or _APART.match(line))


def _source_of(statement: str, known: Sequence[_Sentence]) -> _Sentence | None:
    words = _words(statement)
    if len(words) < _LEAST_WORDS:
        return None
    best = max(known, key=lambda one: len(words & one.words), default=None)
    if best is None or len(words & best.words) < _LEAST_SHARE * len(words):
        return None
    if any(word.isdigit() for word in words - best.words):
        return None
    return best if words & _NEGATIONS == best.words & _NEGATIONS else None


def _words(text: str) -> frozenset[str]:
    """Those that carry a meaning: articles and the like are short."""
    found = re.findall(r"\w+", text.lower().replace("n't", " not"))
    return frozenset(
        one for one in found if len(one) > 3 or one in _NEGATIONS or any(map(str.isdigit, one))
    )
