"""One panel as an `Answerer`: carries out what the engine decides, with real models."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from models.answerer import Answerer, Clock, Events, SystemClock
from models.call import Call
from models.catalog import Panel
from models.errors import BadRequest, FusionError
from models.messages import (
    Completion,
    Done,
    Progress,
    ReasoningDelta,
    Request,
    Stage,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from serve.fusion import engine, prompts
from serve.fusion.judge import Case, Finding, Judge

log = logging.getLogger(__name__)

#: An inner call may not be a fusion itself.
MAX_DEPTH = 1


class Fusion:
    """A panel, its judge and its writer.

    `models` answers for concrete model names; `judge_model` and `writer` are such names.
    """

    def __init__(
        self,
        name: str,
        panel: Panel,
        *,
        judge_model: str,
        writer: str,
        models: Answerer,
        judge: Judge,
        clock: Clock | None = None,
    ) -> None:
        self._name = name
        self._panel = panel
        self._judge_model = judge_model
        self._writer = writer
        self._models = models
        self._judge = judge
        self._clock = clock or SystemClock()

    async def complete(self, request: Request, call: Call) -> Completion:
        async with aclosing(self._events(request, call)) as events:
            async for event in events:
                if isinstance(event, Done):
                    return event.completion
        raise AssertionError("a stream ends with Done")

    def stream(self, request: Request, call: Call) -> Events:
        return self._events(request, call)

    async def _events(self, request: Request, call: Call) -> Events:
        if call.fusion_depth >= MAX_DEPTH:
            raise BadRequest("A fusion cannot run inside a fusion.", param="model")
        inner = replace(call, fusion_depth=call.fusion_depth + 1)
        run = engine.Run(self._panel.member_names)
        stages: list[Stage] = []
        inbox: asyncio.Queue[engine.Event | FusionError] = asyncio.Queue()
        async with _Tasks() as tasks:
            actions = run.start()
            while True:
                for action in actions:
                    match action:
                        case engine.AskMember(index):
                            tasks.start(self._ask(index, request, inner, inbox, stages), inbox)
                        case engine.AskJudge(answers):
                            yield Progress("analysis.in_progress", {"model": self._judge_model})
                            tasks.start(
                                self._compare(request, answers, inner, inbox, stages), inbox
                            )
                        case engine.GiveUp(error):
                            raise error
                        case engine.Write():
                            async with aclosing(self._write(request, action, inner)) as written:
                                async for event in written:
                                    if isinstance(event, Done):
                                        event = self._whole(event.completion, run, action, stages)
                                    yield event
                            return
                happened = await inbox.get()
                if isinstance(happened, FusionError):
                    raise happened
                actions = run.on(happened)
                yield self._progress(happened, run)

    async def _ask(
        self,
        index: int,
        request: Request,
        call: Call,
        inbox: asyncio.Queue[engine.Event | FusionError],
        stages: list[Stage],
    ) -> None:
        member, place = self._panel.members[index], self._panel.member_names[index]
        deadline = self._clock.now() + self._panel.timeout_s
        sampling = replace(member.sampling, seed=request.sampling.seed)
        asked = prompts.panelist(request, member.model, member.persona, sampling)
        inner = call.child("panelist", deadline=min(deadline, call.deadline or deadline))
        try:
            completion = await self._models.complete(asked, inner)
        except FusionError as error:
            stages.append(Stage("panelist", member.model, member=place, error=error.message))
            inbox.put_nowait(engine.MemberFailed(index, error))
        else:
            stages += (replace(stage, member=place) for stage in completion.stages)
            inbox.put_nowait(engine.Answered(index, completion))

    async def _compare(
        self,
        request: Request,
        answers: tuple[engine.Answer, ...],
        call: Call,
        inbox: asyncio.Queue[engine.Event | FusionError],
        stages: list[Stage],
    ) -> None:
        case = Case(self._judge_model, request.messages, answers, self._panel.analysis_tokens)
        try:
            finding = await self._judge.judge(case, call)
        except FusionError as error:
            # The judge's place went away, not its model: the panel's answers still stand.
            failed = Stage("judge", self._judge_model, error=error.message)
            finding = Finding(None, "judge_upstream_error", (failed,))
        stages += finding.stages
        if finding.analysis is not None:
            inbox.put_nowait(engine.Judged(finding.analysis))
        else:
            inbox.put_nowait(engine.JudgeFailed(finding.failure or "unexpected_error"))

    async def _write(self, request: Request, write: engine.Write, call: Call) -> Events:
        mark = secrets.token_hex(4)
        asked = prompts.synthesis(request, self._writer, write.answers, write.analysis, mark)
        stream = self._models.stream(asked, call.child("synthesis"))
        async with aclosing(stream) as events:
            async for event in events:
                if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta | Done):
                    yield event

    def _progress(self, happened: engine.Event, run: engine.Run) -> Progress:
        match happened:
            case engine.Answered(index, completion):
                if index in run.failures:  # it came, and was empty
                    return self._member_failed(index, run.failures[index])
                data = {"model": run.members[index], "content": completion.text}
                return Progress("panel.completed", data)
            case engine.MemberFailed(index, error):
                return self._member_failed(index, error)
            case engine.Judged(analysis):
                return Progress("analysis.completed", {"analysis": analysis.model_dump()})
            case engine.JudgeFailed(reason):
                return Progress("analysis.failed", {"failure_reason": reason})

    def _member_failed(self, index: int, error: FusionError) -> Progress:
        return Progress("panel.failed", _failure(self._panel.member_names[index], error))

    def _whole(
        self, written: Completion, run: engine.Run, write: engine.Write, stages: list[Stage]
    ) -> Done:
        """The final answer, with what it took: usage and stages are those of all inner calls."""
        # In the panel's order and not in that of arrival, so that two runs compare.
        places = {member: place for place, member in enumerate(run.members)}
        panel = sorted(
            (stage for stage in stages if stage.member), key=lambda s: places[s.member or ""]
        )
        rest = (stage for stage in stages if not stage.member)
        every = (*panel, *rest, *written.stages)
        extension: dict[str, Any] = {
            "panel": self._name,
            "responses": [{"model": a.member, "content": a.text} for a in write.answers],
            "failed_models": [_failure(one.member, one.error) for one in run.failed],
        }
        if write.analysis is not None:
            extension["analysis"] = write.analysis.model_dump(mode="json")
        if write.judge_failure is not None:
            extension["failure_reason"] = write.judge_failure
        usage = sum((stage.usage for stage in every), Usage())
        return Done(replace(written, usage=usage, stages=every, extension=extension))


def _failure(member: str, error: FusionError) -> Mapping[str, Any]:
    return {"model": member, "error": error.message, "status_code": error.status}


class _Tasks:
    """Tasks that live no longer than their block, however it ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(
        self, work: Coroutine[Any, Any, None], inbox: asyncio.Queue[engine.Event | FusionError]
    ) -> None:
        self._tasks.add(asyncio.create_task(self._guarded(work, inbox)))

    async def _guarded(
        self, work: Coroutine[Any, Any, None], inbox: asyncio.Queue[engine.Event | FusionError]
    ) -> None:
        try:
            await work
        except BaseException as error:
            # Whoever waits for this task's event must hear that none will come.
            if not isinstance(error, asyncio.CancelledError):
                log.exception("an inner call of a fusion failed")
            inbox.put_nowait(FusionError(f"Internal error: {type(error).__name__}."))
            raise

    async def __aenter__(self) -> _Tasks:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
