"""What a small model's report needs to be of use: its repeats gone, its statements cited. Pure.

Such a model says what its sources say and forgets to name them. Where a statement has nearly all
its words, its numbers and its negations from one sentence of a source, that sentence is cited
behind it. It is a likeness of words and no understanding: the document says which those are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from serve.evaluation.evidence import CITATION, Checked, Citation, Stored, check, flat, sentences

#: A statement's own words, and how many of them stand in the sentence, at least.
_LEAST_WORDS, _LEAST_SHARE = 4, 0.75
_STATEMENTS = re.compile(r"(?<=[.!?])\s+(?=\S)")
_CUT = re.compile(r"\s*\[\d{1,3}:[^\]]*\Z")
_EMPTY_CODE = re.compile(r"^(```|~~~)[^\n`]*\n\s*\1$", re.M)
_FENCE = re.compile(r"^\s*(```|~~~)")
_NEGATIONS = frozenset(["no", "not", "never", "none", "nor", "neither", "without", "cannot"])


Kind = Literal["prose", "heading", "apart", "code"]


@dataclass(frozen=True, slots=True)
class _Sentence:
    number: int
    text: str
    words: frozenset[str]


def grounded(written: str, sources: Sequence[Stored]) -> Checked:
    """A report as a model wrote it, with the citations that hold, and more by their words."""
    first = check(written, sources)
    text, repeats = without_repeats(first.text)
    # A citation may have gone with what was said twice.
    kept = check(text, sources).kept
    found = attributed(Checked(tidy(text), kept, first.removed), sources)
    return replace(found, repeats=repeats)


def attributed(report: Checked, sources: Sequence[Stored]) -> Checked:
    """The report with a citation behind each statement that is a sentence of a source in words."""
    known = [
        _Sentence(number, text, _words(text))
        for number, source in enumerate(sources, 1)
        for text in sentences(source.text)
    ]
    placed: list[Citation] = []
    lines = []
    for line, kind in _lines(report.text):
        if kind != "prose" or CITATION.search(line):
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
    return replace(report, text="\n".join(lines), placed=tuple(placed))


def without_repeats(text: str) -> tuple[str, int]:
    """The text without the statements that it has made before, and how many those were.

    A small model that loses its thread says one sentence until its tokens end.
    """
    said: set[str] = set()
    lines: list[str] = []
    repeats = 0
    for line, kind in _lines(text):
        # A citation may hold the end of a sentence: such a line is taken as a whole.
        parts = [line] if CITATION.search(line) else _STATEMENTS.split(line)
        keys = [flat(one) for one in parts] if kind in ("prose", "heading") else []
        again = [len(key.split()) >= _LEAST_WORDS and key in said for key in keys]
        said.update(keys)
        if any(again):
            repeats += sum(again)
            line = " ".join(one for one, old in zip(parts, again, strict=True) if not old)
        if line.strip() or (lines and lines[-1].strip() and not any(again)):
            lines.append(line)
    return ("\n".join(lines), repeats) if repeats else (text, 0)


def tidy(text: str) -> str:
    """The text without a citation that was cut off, empty code and holes, its last code closed."""
    text = _CUT.sub("", text)
    if sum(_FENCE.match(line) is not None for line in text.split("\n")) % 2:
        text += "\n```"
    text = _EMPTY_CODE.sub("", text)
    return re.sub(r"\n{4,}", "\n\n\n", text).strip()


def _lines(text: str) -> Iterator[tuple[str, Kind]]:
    """Each line, and what it is: a table's line and a quoted one are no statements."""
    in_code = False
    for line in text.split("\n"):
        fence = _FENCE.match(line) is not None
        in_code ^= fence
        start = line.lstrip()[:1]
        if fence or in_code:
            yield line, "code"
        else:
            yield line, "heading" if start == "#" else "apart" if start in ("|", ">") else "prose"


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
