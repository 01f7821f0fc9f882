"""Makes answers fit their reader: what is too long is shortened by a workforce model.

Map, then judge: an answer is split into pieces that the model can read, each piece is
shortened by itself, all at once, and the shortened pieces stand in for the answer. Nothing is
cut as long as that model answers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from models.answerer import Answerer
from models.call import Call
from models.errors import FusionError
from models.messages import Stage
from serve.fusion import prompts, window
from serve.fusion.engine import Answer

#: Pieces that are shortened at the same time.
_AT_ONCE = 8
#: Rounds after which a text is as short as it gets.
_ROUNDS = 4
#: The least that a piece is shortened to, in tokens.
_LEAST = 48
#: What is told of the question to whoever shortens.
_QUESTION_CHARACTERS = 1500


@dataclass(slots=True)
class Reduction:
    """Shortens by `model`, whose window is `context` tokens with `max_output` of them written."""

    models: Answerer
    model: str
    context: int
    max_output: int
    stages: list[Stage] = field(default_factory=list)

    async def fit(
        self, answers: tuple[Answer, ...], room: int, question: str, call: Call
    ) -> tuple[Answer, ...]:
        """The answers, in at most about `room` tokens together."""
        wanted = [window.tokens(answer.text) for answer in answers]
        if sum(wanted) <= room:
            return answers
        given = window.shares(wanted, room)
        asked = question[-_QUESTION_CHARACTERS:]
        texts = await asyncio.gather(
            *(
                self._shorter(answer.text, max(window.LEAST, most), asked, call)
                if need > most
                else _same(answer.text)
                for answer, need, most in zip(answers, wanted, given, strict=True)
            )
        )
        return tuple(
            replace(answer, text=text) for answer, text in zip(answers, texts, strict=True)
        )

    async def text(self, text: str, room: int, question: str, call: Call) -> str:
        """One text, in at most about `room` tokens."""
        (answer,) = await self.fit((Answer("", text),), room, question, call)
        return answer.text

    async def _shorter(self, text: str, most: int, question: str, call: Call) -> str:
        gate = asyncio.Semaphore(_AT_ONCE)
        for _ in range(_ROUNDS):
            if window.tokens(text) <= most:
                return text
            pieces = self._pieces(text)
            # Two thirds: `window.tokens` counts rather too many, and must find it short enough.
            each = max(_LEAST, min(most * 2 // 3 // len(pieces), self.max_output))
            text = "\n".join(
                await asyncio.gather(
                    *(self._piece(piece, each, question, call, gate) for piece in pieces)
                )
            )
        return _cut(text, most)

    def _pieces(self, text: str) -> list[str]:
        """Pieces that fit the model's window beside its own answer, parted between lines."""
        room = max(
            256, self.context - self.max_output - window.OVERHEAD - _QUESTION_CHARACTERS // 3
        )
        size = max(1, len(text) * room // max(1, window.tokens(text)))
        pieces = []
        while len(text) > size:
            at = max(text.rfind("\n", size // 2, size), text.rfind(" ", size // 2, size))
            at = size if at < 0 else at + 1
            pieces.append(text[:at])
            text = text[at:]
        return [*pieces, text]

    async def _piece(
        self, piece: str, most: int, question: str, call: Call, gate: asyncio.Semaphore
    ) -> str:
        asked = prompts.shortened(self.model, question, piece, prompts.new_mark(), most)
        async with gate:
            try:
                completion = await self.models.complete(asked, call.child("reduction"))
            except FusionError as error:
                self.stages.append(Stage("reduction", self.model, error=error.message))
                return _cut(piece, most)
        self.stages += completion.stages
        shorter = completion.text.strip()
        # A model that knows no end would be asked for ever more pieces.
        return shorter if 0 < len(shorter) < len(piece) else _cut(piece, most)


async def _same(text: str) -> str:
    return text


def _cut(text: str, most: int) -> str:
    """The last resort when nobody can shorten: begin and end, and a mark that it is so."""
    size = most * 3 if text.isascii() else most
    if len(text) <= size:
        return text
    half = max(1, size // 2 - 20)
    return f"{text[:half]}\n[... cut: too long ...]\n{text[-half:]}"
