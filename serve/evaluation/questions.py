"""Questions whose answers can be checked: multiple choice, a number, an exact text. Pure.

One JSON line a question: `{"id", "question", "answer", "choices"?: [text], "kind"?: "choice" |
"number" | "exact", "task"?}`. With `choices`, `answer` is a letter, or the text of a choice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve.evaluation import lines

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Kind = Literal["choice", "number", "exact"]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str | int
    question: str = Field(min_length=1)
    answer: str | int | float
    choices: list[str] | None = Field(None, min_length=2, max_length=len(LETTERS))
    kind: Kind | None = None
    task: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    text: str
    kind: Kind
    #: A letter, a number as text, or a text.
    answer: str
    choices: tuple[str, ...] = ()
    task: str = ""

    def prompt(self) -> str:
        """What a system reads."""
        match self.kind:
            case "choice":
                lettered = "\n".join(
                    f"{letter}. {text}" for letter, text in zip(LETTERS, self.choices, strict=False)
                )
                form = "the letter of the right choice"
                return f"{self.text}\n\n{lettered}\n\n{_form(form)}"
            case "number":
                return f"{self.text}\n\n{_form('the number')}"
            case _:
                return f"{self.text}\n\n{_form('your answer, as short as it can be')}"

    def read(self, text: str) -> str | None:
        """The answer in a system's words, or None if there is none."""
        said = _last_line(text)
        match self.kind:
            case "choice":
                letters = LETTERS[: len(self.choices)]
                found = re.findall(rf"\b([{letters}])\b", said) or re.findall(
                    rf"\b([{letters}])\b", text
                )
                return found[-1] if found else None
            case "number":
                found = _NUMBER.findall(said) or _NUMBER.findall(text)
                return _plain(found[-1]) if found else None
            case _:
                return _folded(said) or None

    def is_right(self, read: str | None) -> bool:
        return read is not None and read == (
            _folded(self.answer) if self.kind == "exact" else self.answer
        )


_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def _form(what: str) -> str:
    return f"End with a line 'Answer: ' and {what}."


def _last_line(text: str) -> str:
    """What stands behind the last 'Answer:', or all of it."""
    found = re.findall(r"answer\s*(?:is)?\s*[::]\s*(.+)", text, re.IGNORECASE)
    return str(found[-1]).strip(" *`$.") if found else text.strip()


def _plain(number: str) -> str:
    """Without commas and idle zeros. As text: a model may write a thousand digits."""
    whole, _, part = number.replace(",", "").lstrip("-").partition(".")
    plain = ".".join(filter(None, (whole.lstrip("0") or "0", part.rstrip("0"))))
    return f"-{plain}" if number.startswith("-") and plain != "0" else plain


def _folded(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s.-]", " ", text.casefold()).split()).strip(".")


def vote(answers: Sequence[str | None]) -> str | None:
    """The most frequent one, the earliest where several are; None only where nobody answered."""
    counted = Counter(one for one in answers if one is not None)
    return counted.most_common(1)[0][0] if counted else None


def read_questions(path: Path) -> list[Question]:
    """Raises LinesError with every problem by its line, or OSError."""
    return lines.read(path, parse_question, "questions")


def parse_question(line: bytes) -> Question:
    """One line. Raises ValueError with the reason in words."""
    try:
        raw = _Line.model_validate_json(line)
    except ValidationError as error:
        raise ValueError(lines.reason(error)) from None
    answer = str(raw.answer).strip()
    kind = raw.kind or ("choice" if raw.choices else "exact")
    if kind == "choice":
        answer = _letter(answer, raw.choices or [])
    elif kind == "number":
        if not _NUMBER.fullmatch(answer):
            raise ValueError(f"answer: '{answer}' is not a number")
        answer = _plain(answer)
    return Question(str(raw.id), raw.question, kind, answer, tuple(raw.choices or ()), raw.task)


def _letter(answer: str, choices: list[str]) -> str:
    if not choices:
        raise ValueError("choices: a choice needs some")
    if answer in choices:
        return LETTERS[choices.index(answer)]
    if len(answer) == 1 and answer.upper() in LETTERS[: len(choices)]:
        return answer.upper()
    raise ValueError(f"answer: '{answer}' is neither a letter of a choice nor one of the choices")
