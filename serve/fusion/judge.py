"""The judge: reads the panel's answers and returns what they agree and differ on."""

from __future__ import annotations

import hashlib
import json
from typing import Protocol

from pydantic import ValidationError

from models.answerer import Answerer, Clock, SystemClock
from models.call import Call
from models.errors import BudgetExceeded, ContextTooLong, FusionError, Overloaded
from models.messages import Effort, Message, ServerTool, Stage
from models.tools.toolbox import Boxes
from models.values import value
from serve.fusion import prompts
from serve.fusion.calls import noted, spared
from serve.fusion.contract import Analysis, FailureReason
from serve.fusion.engine import Answer
from serve.fusion.loop import Loop


@value(slots=True)
class Case:
    """What is put before the judge. With `pick` it also names the best answer.

    `tools` are server tools (None: those of the web); with `max_tool_calls` 0 it uses none, and
    they leave `spare` nano-dollars of the cost cap to compare with.
    """

    model: str
    conversation: tuple[Message, ...]
    answers: tuple[Answer, ...]
    max_tokens: int
    pick: bool = False
    tools: tuple[ServerTool, ...] | None = ()
    max_tool_calls: int = 0
    spare: int = 0
    effort: Effort | None = None


@value(slots=True)
class Finding:
    """What the judge says: an analysis, or why there is none. `stages` are its calls."""

    analysis: Analysis | None
    failure: FailureReason | None
    stages: tuple[Stage, ...] = ()
    #: The member with the best answer, where the case asked for it.
    best: str | None = None
    #: The case did not fit the judge's window.
    too_long: bool = False


class Judge(Protocol):
    async def judge(self, case: Case, call: Call) -> Finding:
        """Compare the answers. A judge that fails is a finding, not an error, and so is a case that
        is too long for it, which its caller can shorten."""
        ...


class ModelJudge:
    """A judge on any model: labels the answers neutrally, asks, repairs once.

    The order of the answers is shuffled by the call's id, so that neither a name nor a place
    is favoured, and a repetition of the same call gives the same order. `boxes` makes the tools
    of one case.
    """

    def __init__(
        self,
        models: Answerer,
        boxes: Boxes | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._models = models
        self._boxes = boxes
        self._clock = clock or SystemClock()

    async def judge(self, case: Case, call: Call) -> Finding:
        order = _shuffled(case.answers, call.id)
        labels = prompts.LABELS[: len(order)]
        labelled = dict(zip(labels, order, strict=True))
        names = {label: answer.member for label, answer in labelled.items()}
        messages = prompts.judge(case.conversation, labelled, prompts.new_mark(), pick=case.pick)
        inner = call.child("judge")
        stages: list[Stage] = []
        messages = await self._checked(case, messages, inner, stages)
        failure: FailureReason | None = None
        for _ in range(2):
            request = prompts.judge_request(
                case.model, messages, tuple(names), case.max_tokens, case.effort, pick=case.pick
            )
            try:
                with noted(stages, "judge", case.model, self._clock):
                    completion = await self._models.complete(request, inner)
            except FusionError as error:
                is_long = isinstance(error, ContextTooLong)
                return Finding(None, _why(error), tuple(stages), too_long=is_long)
            stages += completion.stages
            analysis, failure, problem = read_analysis(completion.text)
            best = None
            if analysis is not None and case.pick:
                best = names.get(read_best(completion.text))
                if best is None:
                    analysis, failure = None, "judge_schema_mismatch"
                    problem = f"best must be one of {', '.join(names)}"
            if analysis is not None:
                return Finding(analysis.renamed(names), None, tuple(stages), best)
            messages = prompts.judge_repair(messages, completion.text, problem)
        return Finding(None, failure, tuple(stages))

    async def _checked(
        self, case: Case, messages: tuple[Message, ...], call: Call, stages: list[Stage]
    ) -> tuple[Message, ...]:
        """The question to the judge, with what it found by its tools, where it has some."""
        if self._boxes is None or not case.max_tool_calls:
            return messages
        box = self._boxes(case.tools)
        tools = box.specs()
        if not tools:
            return messages
        loop = Loop(self._models, self._clock, box, tools, case.max_tool_calls)
        try:
            notes = await loop.complete(
                prompts.judge_checks(case.model, messages, case.max_tokens),
                spared(call, case.spare),
            )
        except FusionError:
            return messages  # it can still compare without having checked
        finally:
            stages += loop.stages
        return prompts.judge_noted(messages, notes.text)


def _shuffled(answers: tuple[Answer, ...], seed: str) -> list[Answer]:
    """The answers in an order that `seed` decides, every order as likely as any other."""

    def rank(place: int) -> bytes:
        return hashlib.blake2b(f"{place} {seed}".encode("utf-8", "replace")).digest()

    return [answers[place] for place in sorted(range(len(answers)), key=rank)]


def _why(error: FusionError) -> FailureReason:
    if isinstance(error, BudgetExceeded):
        return "insufficient_credits"
    return "rate_limited" if isinstance(error, Overloaded) else "judge_upstream_error"


def read_analysis(text: str) -> tuple[Analysis | None, FailureReason | None, str]:
    """The analysis in a judge's output, or the contract's reason and a sentence for the judge."""
    body = _json(text)
    if not body:
        return None, "judge_empty_completion", "the reply was empty"
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        return None, "judge_not_valid_json", f"it is not JSON ({error})"
    try:
        return Analysis.model_validate(data), None, ""
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the object"
        return None, "judge_schema_mismatch", f"{where}: {first['msg']}"


def read_best(text: str) -> str:
    """The label of the best answer in a judge's output that is known to be an object."""
    return str(json.loads(_json(text)).get("best", "")).strip()


def _json(text: str) -> str:
    body = text.strip()
    if body.startswith("```"):
        body = body.strip("`").removeprefix("json").strip()
    return body
