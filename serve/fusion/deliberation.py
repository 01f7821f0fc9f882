"""Carries out what the engine decides, up to what the final answer is written from."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import inf
from typing import Any

from models.answerer import Answerer, Clock, SystemClock, Timer
from models.call import Call, new_id
from models.catalog import Catalog
from models.errors import ContextTooLong, FusionError
from models.loose import clean
from models.messages import (
    Event,
    Progress,
    ReasoningDelta,
    Request,
    Source,
    Stage,
    TextDelta,
    Tool,
    user,
)
from models.tools.toolbox import Boxes
from models.values import changed
from serve.fusion import engine, prompts, result, window
from serve.fusion.judge import Case, Finding, Judge
from serve.fusion.loop import Loop
from serve.fusion.plan import Plan
from serve.fusion.record import Keeper
from serve.fusion.reduction import Reduction

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resources:
    """What every fusion of a process works with. `models` answers for concrete model names;
    `boxes` makes the server tools of one request."""

    catalog: Catalog
    models: Answerer
    judge: Judge
    clock: Clock = field(default_factory=SystemClock)
    boxes: Boxes | None = None
    records: Keeper | None = None


class Deliberation:
    """The panel and the judge of one request. `live`: somebody listens to the panelists; `spent`
    is what the request has cost before.

    Read `events()` to the end, and `write` says what to write from. Leaving the block ends all
    that is under way.
    """

    write: engine.Write
    #: Its record is in line for the store.
    kept = False

    def __init__(
        self,
        plan: Plan,
        request: Request,
        call: Call,
        resources: Resources,
        *,
        live: bool,
        spent: int = 0,
    ) -> None:
        cap = call.cost_cap_nano_usd
        self.id = new_id("fus")
        self._mark = secrets.token_hex(4)
        self.plan = plan
        self.request = request
        self.call = call
        self.stages: list[Stage] = []
        self.run = engine.Run(
            plan.terms(
                request, resources.catalog, call.deadline, None if cap is None else cap - spent
            )
        )
        self._resources = resources
        self._clock = resources.clock
        self._live = live
        self._inbox: asyncio.Queue[engine.Event | Progress] = asyncio.Queue()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._who: dict[int, int] = {}
        self._timer: Timer | None = None
        self._rings_at = inf
        self._box = resources.boxes(plan.tools) if resources.boxes else None
        self._tools: tuple[Tool, ...] = self._box.specs() if self._box else ()
        reducer = resources.catalog.models[plan.reducer]
        self._reduction = Reduction(
            resources.models, plan.reducer, reducer.context, reducer.max_output, self.stages
        )
        self._short: tuple[engine.Answer, ...] | None = None
        self._comparing = False

    async def __aenter__(self) -> Deliberation:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.run.on(engine.Abandoned(), self._clock.now())
        if self._timer is not None:
            self._timer.cancel()
        open_ = [task for task in self._tasks.values() if not task.done()]
        for task in open_:
            task.cancel()
        if open_:
            await asyncio.gather(*open_, return_exceptions=True)

    async def events(self) -> AsyncGenerator[Progress, None]:
        """What happens on the way, where somebody listens. Raises what ended a fusion that has no
        answer."""
        if self._live:
            yield Progress("in_progress", {"id": self.id, "panel": self.plan.panel})
        actions = self.run.start(self._clock.now())
        told = 0
        while True:
            if self._live:
                for one in self.run.failed[told:]:
                    yield Progress("panel.failed", {"index": one.who, **result.failure(one)})
                told = len(self.run.failed)
            for action in actions:
                if isinstance(action, engine.Write) and self._comparing and self._live:
                    # Its judge ran out of time, and said nothing to the end.
                    yield Progress("analysis.completed", {"failure_reason": action.judge_failure})
                if progress := self._do(action):
                    yield progress
                if isinstance(action, engine.GiveUp):
                    raise action.error
                if isinstance(action, engine.Write):
                    return
            happened = await self._next()
            if isinstance(happened, Progress):
                actions = []
                yield happened
                continue
            progress = self._progress(happened)
            if isinstance(happened, engine.Judged | engine.JudgeFailed):
                self._comparing = False
            actions = self.run.on(happened, self._clock.now())
            if progress:
                yield progress

    def _do(self, action: engine.Action) -> Progress | None:
        """Begin what is to be done; what a listener is told of it."""
        match action:
            case engine.AskMember():
                self._who[action.ask] = action.who
                self._start(action.ask, self._ask(action), self._member_broke)
                data = {"index": action.who, "model": self.plan.names[action.who]}
                return Progress("panel.added", data) if self._live else None
            case engine.AskJudge():
                self._comparing = True
                self._start(action.ask, self._compare(action), self._judge_broke)
                data = {"model": self.plan.judge}
                return Progress("analysis.in_progress", data) if self._live else None
            case engine.Stop(ask):
                self._tasks[ask].cancel()
                return None
            case engine.GiveUp(error):
                failed = {"result": result.error(error, self.run)}
                return Progress("completed", failed) if self._live else None
            case engine.Write():
                self.write = action
                return self._completed() if self._live else None

    def _completed(self) -> Progress:
        found = self.result()
        if cited := self.sources(""):
            found["sources"] = [{"url": one.url, "title": one.title} for one in cited]
        return Progress("completed", {"result": found})

    def result(self, answers: tuple[engine.Answer, ...] | None = None) -> dict[str, Any]:
        """The contract's result, with these answers in the place of the whole ones."""
        write = self.write
        told = write.answers if answers is None else answers
        return result.result(told, self.run.failed, write.analysis, write.judge_failure)

    def told(self, error: FusionError | None = None) -> dict[str, Any]:
        """What the caller sees beside the answer: the contract's result, and ours. `error` is
        what ended a fusion without a result."""
        told: dict[str, Any] = {"id": self.id, "panel": self.plan.panel}
        if error is not None:
            return told | result.error(error, self.run)
        told |= self.result()
        if self.plan.answer != "synthesis":
            told["answer"] = self.plan.answer
        if self.write.best is not None:
            told["best"] = self.write.best
        if left := result.left_out(self.run.failed):
            told["left_out"] = left
        return told

    def sources(self, text: str) -> tuple[Source, ...]:
        """Every source of the panel once, those that `text` cites first."""
        return result.sources(self.write.answers, text) if self.run.answers else ()

    def ordered_stages(self) -> tuple[Stage, ...]:
        """All inner calls so far: in the panel's order and not in that of arrival, so that two
        runs compare."""
        places = {name: place for place, name in enumerate(self.plan.names)}
        panel = sorted((s for s in self.stages if s.member), key=lambda s: places[s.member or ""])
        return (*panel, *(stage for stage in self.stages if not stage.member))

    async def material(self, room: int) -> tuple[engine.Answer, ...]:
        """The answers for a writer who can read about `room` tokens of them."""
        answers = self.write.answers
        if self._short is not None and _size(answers) > room:
            answers = self._short
        return await self._reduction.fit(answers, room, self._question, self.call)

    @cached_property
    def _question(self) -> str:
        return prompts.question(self.request.messages)

    # The calls

    async def _ask(self, action: engine.AskMember) -> None:
        member, name = self.plan.members[action.who], self.plan.names[action.who]
        sampling, seed = member.sampling, self.request.sampling.seed
        if seed is not None:
            # The same model at the same seed would say the same thing again.
            sampling = changed(sampling, seed=seed + action.who)
        asked = prompts.panelist(
            self.request, member, sampling, self.plan.effort, action.before, self._mark
        )
        if self.plan.answer == "best_of":
            asked = self._as_final(asked)
        call = self.call.child("panelist", deadline=action.deadline or self.call.deadline)
        tools = self._tools_of(member.model)
        loop = Loop(self._resources.models, self._clock, self._box, tools, self.plan.max_tool_calls)
        began = self._clock.now()

        def failed(why: str) -> None:
            seconds = self._clock.now() - began
            loop.stages.append(Stage("panelist", member.model, seconds=seconds, error=why))

        hear = partial(self._heard, action.who) if self._live else None
        try:
            completion = await loop.complete(asked, call, hear)
        except FusionError as error:
            failed(error.message)
            self._inbox.put_nowait(engine.MemberFailed(action.ask, error, _cost(loop.stages)))
        except asyncio.CancelledError:
            failed("Cancelled.")
            raise
        else:
            cost = _cost(loop.stages)
            text = clean(completion.text)
            cut = completion.finish_reason == "length"
            self._inbox.put_nowait(engine.Answered(action.ask, text, completion.sources, cost, cut))
        finally:
            self.stages += (changed(stage, member=name) for stage in loop.stages)

    def _tools_of(self, model: str) -> tuple[Tool, ...]:
        """A model that cannot call tools works without them."""
        return self._tools if self._resources.catalog.models[model].tools else ()

    def _as_final(self, asked: Request) -> Request:
        """A panelist whose answer may be the final one writes in the caller's form."""
        limits = (asked.sampling.max_tokens, self.request.sampling.max_tokens)
        known = [one for one in limits if one is not None]
        sampling = changed(asked.sampling, max_tokens=min(known) if known else None)
        return changed(asked, sampling=sampling, response_format=self.request.response_format)

    def _heard(self, who: int, event: Event) -> None:
        kinds = {TextDelta: "panel.delta", ReasoningDelta: "panel.reasoning.delta"}
        if isinstance(event, TextDelta | ReasoningDelta):
            data = {"index": who, "model": self.plan.names[who], "delta": clean(event.text)}
            self._inbox.put_nowait(Progress(kinds[type(event)], data))

    async def _compare(self, action: engine.AskJudge) -> None:
        spec = self._resources.catalog.models[self.plan.judge]
        room = spec.context - self.plan.analysis_tokens - window.OVERHEAD
        call = changed(self.call, deadline=action.deadline or self.call.deadline)
        try:
            try:
                finding = await self._judged(action.answers, room, call)
            except ContextTooLong:
                # The estimate was too good: this text has more tokens than most.
                finding = await self._judged(action.answers, room // 2, call)
        except FusionError as error:
            # The judge's place went away, not its model: the panel's answers still stand.
            failed = Stage("judge", self.plan.judge, error=error.message)
            finding = Finding(None, "judge_upstream_error", (failed,))
        self.stages += finding.stages
        cost = _cost(finding.stages)
        if finding.analysis is not None:
            found = engine.Judged(action.ask, finding.analysis, finding.best, cost)
            self._inbox.put_nowait(found)
        else:
            reason = finding.failure or "unexpected_error"
            self._inbox.put_nowait(engine.JudgeFailed(action.ask, reason, cost))

    async def _judged(self, answers: tuple[engine.Answer, ...], room: int, call: Call) -> Finding:
        conversation = self.request.messages
        question = self._question
        asked = window.tokens(question)
        if asked > room // 2:
            question = await self._reduction.text(question, room // 2, question, call)
            conversation, asked = (user(question),), room // 2
        short = await self._reduction.fit(answers, room - asked, question, call)
        if short is not answers:
            self._short = short
        case = Case(
            model=self.plan.judge,
            conversation=conversation,
            answers=short,
            max_tokens=self.plan.analysis_tokens,
            pick=self.plan.answer == "best_of",
            tools=self.plan.tools,
            max_tool_calls=self.plan.max_tool_calls if self._tools_of(self.plan.judge) else 0,
            effort=self.plan.effort,
        )
        return await self._resources.judge.judge(case, call)

    # The inbox

    def _start(
        self,
        ask: int,
        work: Coroutine[Any, Any, None],
        broke: Callable[[int, FusionError], engine.Event],
    ) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                # Whoever waits for this call's event must hear that none will come.
                log.exception("an inner call of a fusion failed")
                told = FusionError(f"Internal error: {type(error).__name__}.")
                self._inbox.put_nowait(broke(ask, told))

        self._tasks[ask] = asyncio.create_task(guarded())

    @staticmethod
    def _member_broke(ask: int, error: FusionError) -> engine.Event:
        return engine.MemberFailed(ask, error)

    @staticmethod
    def _judge_broke(ask: int, _: FusionError) -> engine.Event:
        return engine.JudgeFailed(ask, "unexpected_error")

    async def _next(self) -> engine.Event | Progress:
        """The next thing that happens, at the latest a `Tick` when the engine wants one."""
        if not self._inbox.empty():
            return self._inbox.get_nowait()
        wake_at = self.run.wake_at
        # A timer that rings too early wakes the engine for nothing, and is set anew then.
        if wake_at is not None and wake_at < self._rings_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._rings_at = self._clock.call_at(wake_at, self._ring), wake_at
        return await self._inbox.get()

    def _ring(self) -> None:
        self._rings_at = inf
        self._inbox.put_nowait(engine.Tick())

    def _progress(self, happened: engine.Event) -> Progress | None:
        """What a listener is told of this event, if it is still waited for."""
        if not self._live:
            return None
        match happened:
            case engine.Answered(ask, text) if text.strip() and ask in self.run.open:
                who = self._who[ask]
                data = {"index": who, "model": self.plan.names[who], "content": text}
                return Progress("panel.completed", data)
            case engine.Judged(ask, analysis) if ask in self.run.open:
                return Progress("analysis.completed", {"analysis": analysis.model_dump()})
            case engine.JudgeFailed(ask, reason) if ask in self.run.open:
                return Progress("analysis.completed", {"failure_reason": reason})
        return None


def _size(answers: tuple[engine.Answer, ...]) -> int:
    return sum(window.tokens(answer.text) for answer in answers)


def _cost(stages: tuple[Stage, ...] | list[Stage]) -> int:
    return sum(stage.nano_usd or 0 for stage in stages)
