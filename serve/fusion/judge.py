"""The judge: reads the panel's answers and returns what they agree and differ on."""

from __future__ import annotations

import json
import random
import secrets
from dataclasses import dataclass
from typing import Protocol

from pydantic import ValidationError

from models.answerer import Answerer
from models.call import Call
from models.errors import FusionError
from models.messages import Message, Stage
from serve.fusion import prompts
from serve.fusion.contract import Analysis, FailureReason
from serve.fusion.engine import Answer


@dataclass(frozen=True, slots=True)
class Case:
    """What is put before the judge."""

    model: str
    conversation: tuple[Message, ...]
    answers: tuple[Answer, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What the judge says: an analysis, or why there is none. `stages` are its calls."""

    analysis: Analysis | None
    failure: FailureReason | None
    stages: tuple[Stage, ...] = ()


class Judge(Protocol):
    async def judge(self, case: Case, call: Call) -> Finding:
        """Compare the answers. A judge that fails is a finding, not an error."""
        ...


class ModelJudge:
    """A judge on any model: labels the answers neutrally, asks, repairs once.

    The order of the answers is shuffled by the call's id, so that neither a name nor a place
    is favoured, and a repetition of the same call gives the same order.
    """

    def __init__(self, models: Answerer) -> None:
        self._models = models

    async def judge(self, case: Case, call: Call) -> Finding:
        order = list(case.answers)
        # Shuffling wants no secrecy, only a spread.
        random.Random(call.id).shuffle(order)  # noqa: S311
        names = {prompts.LABELS[index]: answer.member for index, answer in enumerate(order)}
        labelled = tuple(zip(names, (answer.text for answer in order), strict=True))
        messages = prompts.judge(case.conversation, labelled, secrets.token_hex(4))
        stages: list[Stage] = []
        failure: FailureReason | None = None
        for _ in range(2):
            request = prompts.judge_request(case.model, messages, tuple(names), case.max_tokens)
            try:
                completion = await self._models.complete(request, call.child("judge"))
            except FusionError as error:
                stages.append(Stage("judge", case.model, error=error.message))
                return Finding(None, "judge_upstream_error", tuple(stages))
            stages += completion.stages
            analysis, failure, problem = read_analysis(completion.text)
            if analysis is not None:
                return Finding(analysis.renamed(names), None, tuple(stages))
            messages = prompts.judge_repair(messages, completion.text, problem)
        return Finding(None, failure, tuple(stages))


def read_analysis(text: str) -> tuple[Analysis | None, FailureReason | None, str]:
    """The analysis in a judge's output, or the contract's reason and a sentence for the judge."""
    body = text.strip()
    if not body:
        return None, "judge_empty_completion", "the reply was empty"
    if body.startswith("```"):
        body = body.strip("`").removeprefix("json").strip()
    try:
        data = json.loads(body)
    except ValueError as error:
        return None, "judge_not_valid_json", f"it is not JSON ({error})"
    try:
        return Analysis.model_validate(data), None, ""
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the object"
        return None, "judge_schema_mismatch", f"{where}: {first['msg']}"
