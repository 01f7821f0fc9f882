"""Ask the cheap model, look at its answer, and ask the dear one only where it fails the look."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from models.answerer import Answerer
from models.call import Call
from models.errors import FusionError
from models.messages import Completion, Message, Request, ResponseFormat, Stage, user
from router import checks
from router.cascade import Signs

#: How freely the second sample is drawn: at the first's own temperature it might be a copy.
SAMPLE_TEMPERATURE = 0.8
#: Longest answer of a judge's look, in tokens.
_VERDICT_TOKENS = 200
_VERDICT = {
    "type": "object",
    "properties": {
        "problem": {"type": "string", "maxLength": 240},
        "right": {"type": "boolean"},
    },
    "required": ["problem", "right"],
    "additionalProperties": False,
}
_JUDGE = (
    "Above is a question and an answer to it by another model. Look for the first mistake in the "
    "answer; say in 'problem' what it is, or 'none'. 'right' is true if a careful expert would "
    "accept the answer as correct and complete."
)


@dataclass(frozen=True, slots=True)
class Look:
    """The cheap answer and what it shows. spent: the stages of looking at it."""

    answer: Completion
    shown: Mapping[str, bool]
    belief: float
    spent: tuple[Stage, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Looker:
    """Looks at answers. `signs` that are dear are looked at only if they could decide."""

    models: Answerer
    judge: str
    signs: Signs

    async def look(
        self,
        request: Request,
        call: Call,
        answer: Completion,
        prior: float,
        looks: tuple[str, ...],
        needed: float,
    ) -> Look:
        """`request` is what the cheap model was asked, `needed` the belief from which its answer
        is given."""
        shown = free_signs(request, answer, looks)
        if "confident" in looks and answer.logprob is not None:
            shown["confident"] = self.signs.confident(answer.model, answer.logprob)
        spent: tuple[Stage, ...] = ()
        for sign in ("agrees", "judged"):
            if sign not in looks or not self._could_decide(prior, shown, sign, needed):
                continue
            told, stages = await (
                self._sample(request, call, answer)
                if sign == "agrees"
                else self._verdict(request, call, answer)
            )
            spent += stages
            if told is not None:
                shown[sign] = told
        return Look(answer, shown, self.signs.belief(prior, shown), spent)

    def _could_decide(
        self, prior: float, shown: Mapping[str, bool], sign: str, needed: float
    ) -> bool:
        ends = [
            self.signs.belief(prior, {**shown, sign: there}) >= needed for there in (True, False)
        ]
        return ends[0] != ends[1]

    async def _sample(
        self, request: Request, call: Call, answer: Completion
    ) -> tuple[bool | None, tuple[Stage, ...]]:
        sampling = request.sampling
        warm = max(sampling.temperature or 0.0, SAMPLE_TEMPERATURE)
        seed = None if sampling.seed is None else sampling.seed + 1
        again = replace(
            request, sampling=replace(sampling, temperature=warm, seed=seed, logprobs=False)
        )
        try:
            other = await self.models.complete(again, call.child("answer"))
        except FusionError:
            return None, ()  # a look that failed says nothing
        return checks.say_the_same(answer.text, other.text), other.stages

    async def _verdict(
        self, request: Request, call: Call, answer: Completion
    ) -> tuple[bool | None, tuple[Stage, ...]]:
        said = Message("assistant", answer.message.content)
        looked = Request(
            model=self.judge,
            messages=(*request.messages, said, user(_JUDGE)),
            sampling=replace(
                request.sampling,
                temperature=0.0,
                max_tokens=_VERDICT_TOKENS,
                stop=(),
                logprobs=False,
            ),
            response_format=ResponseFormat("json_schema", "verdict", _VERDICT),
        )
        try:
            found = await self.models.complete(looked, call.child("judge"))
        except FusionError:
            return None, ()
        try:
            right = json.loads(found.text)["right"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None, found.stages
        return (right if isinstance(right, bool) else None), found.stages


def free_signs(request: Request, answer: Completion, looks: tuple[str, ...]) -> dict[str, bool]:
    """The signs that cost nothing to look for."""
    shown: dict[str, bool] = {}
    if "finished" in looks:
        shown["finished"] = answer.finish_reason == "stop" and bool(answer.text.strip())
    shape = request.response_format
    if "valid" in looks and shape is not None and shape.kind != "text":
        shown["valid"] = checks.is_shaped(answer.text, shape.schema)
    if "sums" in looks and (right := checks.sums_are_right(answer.text)) is not None:
        shown["sums"] = right
    return shown
