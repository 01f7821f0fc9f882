"""Carries out what the engine decides, up to what the final answer is written from."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import inf
from typing import Any

from models.answerer import Answerer, Clock, SystemClock, Timer
from models.call import Call, new_id
from models.catalog import Catalog
from models.errors import FusionError
from models.loose import clean
from models.messages import (
    Completion,
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
from serve.fusion.calls import noted, spared
from serve.fusion.judge import Case, Finding, Judge
from serve.fusion.loop import Loop
from serve.fusion.plan import Plan
from serve.fusion.record import Keeper
from serve.fusion.reduction import Reduction

log = logging.getLogger(__name__)

#: Seconds that calls which were cancelled have to end: nobody waits for what does not heed it.
CLOSING_S = 1.0


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
    is what the request has cost before, and `behind` what an outer model answers when it has read
    the result.

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
        behind: Request | None = None,
    ) -> None:
        cap = call.cost_cap_nano_usd
        self.id = new_id("fus")
        self.plan = plan
        self.request = request
        self.call = call
        self.stages: list[Stage] = []
        left = None if cap is None else cap - spent
        terms = plan.terms(request, resources.catalog, call.deadline, left, behind)
        self.run = engine.Run(terms)
        self._resources = resources
        self._clock = resources.clock
        self._loop = asyncio.get_running_loop()
        self._live = live
        #: What happened and was not looked at yet, and who waits for it.
        self._inbox: deque[engine.Event | Progress] = deque()
        self._waiter: asyncio.Future[None] | None = None
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
            await asyncio.wait(open_, timeout=CLOSING_S)

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
                if self._live and self._comparing and isinstance(action, engine.Write):
                    # Its judge ran out of time, and said nothing to the end.
                    yield Progress("analysis.completed", {"failure_reason": action.judge_failure})
                if progress := self._do(action):
                    yield progress
                if isinstance(action, engine.GiveUp):
                    raise action.error
                if isinstance(action, engine.Write):
                    return
            if not self._inbox:
                await self._arrival()
            happened = self._inbox.popleft()
            if isinstance(happened, Progress):
                actions = []
                yield happened
                continue
            progress = self._progress(happened) if self._live else None
            actions = self.run.on(happened, self._clock.now())
            if progress:
                yield progress

    def _do(self, action: engine.Action) -> Progress | None:
        """Begin what is to be done; what a listener is told of it."""
        match action:
            case engine.AskMember():
                self._who[action.ask] = action.who
                self._tasks[action.ask] = self._loop.create_task(self._ask(action))
                data = {"index": action.who, "model": self.plan.names[action.who]}
                return Progress("panel.added", data) if self._live else None
            case engine.AskJudge():
                self._comparing = True
                self._tasks[action.ask] = self._loop.create_task(self._compare(action))
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
                return Progress("completed", {"result": self._found()}) if self._live else None

    def _found(self) -> dict[str, Any]:
        """The contract's result, and what the panel has it from."""
        found = self.result()
        if sources := self.sources():
            found["sources"] = [{"url": one.url, "title": one.title} for one in sources]
        return found

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
        told |= self._found()
        if self.plan.answer != "synthesis":
            told["answer"] = self.plan.answer
        if self.write.best is not None:
            told["best"] = self.write.best
        if left := result.left_out(self.run.failed):
            told["left_out"] = left
        return told

    def sources(self, text: str = "") -> tuple[Source, ...]:
        """Every source of the panel once, those that `text` cites first."""
        return result.sources(self.write.answers, text) if self.run.answered else ()

    def ordered_stages(self) -> tuple[Stage, ...]:
        """All inner calls so far: in the panel's order and not in that of arrival, so that two
        runs compare."""
        names = self.plan.names
        behind = len(names)
        return tuple(
            sorted(self.stages, key=lambda s: names.index(s.member) if s.member else behind)
        )

    async def material(self, room: int) -> tuple[engine.Answer, ...]:
        """The answers for a writer who can read about `room` tokens of them."""
        answers = self.write.answers
        if self._short is not None and _size(answers) > room:
            answers = self._short
        return await self._reduction.fit(answers, room, self._question, self._inner)

    @property
    def _inner(self) -> Call:
        """The call of what is done now: what comes later has its part of the money left."""
        return spared(self.call, self.run.kept)

    def _owed(self) -> int:
        """What the panelists that are asked now may need to answer with."""
        return sum(self.run.reserved.values())

    @cached_property
    def _mark(self) -> str:
        return prompts.new_mark()

    @cached_property
    def _question(self) -> str:
        return prompts.question(self.request.messages)

    # The calls

    async def _ask(self, action: engine.AskMember) -> None:
        model, name = self.plan.members[action.who].model, self.plan.names[action.who]
        stages: list[Stage] = []
        try:
            with noted(stages, "panelist", model, self._clock):
                completion = await self._answered(action, model, stages)
                text, cut = clean(completion.text), completion.finish_reason == "length"
            cost = _cost(stages)
            self._put(engine.Answered(action.ask, text, completion.sources, cost, cut))
        except FusionError as error:
            self._put(engine.MemberFailed(action.ask, error, _cost(stages)))
        except Exception as error:
            self._put(engine.MemberFailed(action.ask, _internal(error), _cost(stages)))
        finally:
            self.stages += [changed(stage, member=name) for stage in stages]

    async def _answered(
        self, action: engine.AskMember, model: str, stages: list[Stage]
    ) -> Completion:
        tools = self._tools_of(model)
        if tools and not self.run.may_look(action.ask):
            tools = ()
        loop = Loop(
            self._resources.models,
            self._clock,
            self._box,
            tools,
            self.plan.max_tool_calls,
            self._owed,
            stages,
        )
        call = self._inner.child("panelist", action.deadline)
        hear = partial(self._heard, action.who) if self._live else None
        return await loop.complete(self._asked(action), call, hear)

    def _asked(self, action: engine.AskMember) -> Request:
        """What a panelist is asked."""
        plan, seed = self.plan, self.request.sampling.seed
        member, sampling = plan.members[action.who], plan.samplings[action.who]
        if seed is not None:
            # The same model at the same seed would say the same thing again.
            sampling = changed(sampling, seed=seed + action.who)
        mark = self._mark if action.before else ""
        asked = prompts.panelist(self.request, member, sampling, plan.effort, action.before, mark)
        return self._as_final(asked) if plan.answer == "best_of" else asked

    def _tools_of(self, model: str) -> tuple[Tool, ...]:
        """A model that cannot call tools works without them."""
        return self._tools if self._tools and self._resources.catalog.models[model].tools else ()

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
            self._put(Progress(kinds[type(event)], data))

    async def _compare(self, action: engine.AskJudge) -> None:
        stages: list[Stage] = []
        try:
            with noted(stages, "judge", self.plan.judge, self._clock):
                finding = await self._finding(action, stages)
            cost = _cost(stages)
            if finding.analysis is not None:
                found = engine.Judged(action.ask, finding.analysis, finding.best, cost)
                self._put(found)
            else:
                reason = finding.failure or "unexpected_error"
                self._put(engine.JudgeFailed(action.ask, reason, cost))
        except FusionError:
            # The judge's place went away, not its model: the panel's answers still stand.
            self._put(engine.JudgeFailed(action.ask, "judge_upstream_error", _cost(stages)))
        except Exception as error:
            _internal(error)
            self._put(engine.JudgeFailed(action.ask, "unexpected_error", _cost(stages)))
        finally:
            self.stages += stages

    async def _finding(self, action: engine.AskJudge, stages: list[Stage]) -> Finding:
        spec = self._resources.catalog.models[self.plan.judge]
        room = spec.context - self.plan.analysis_tokens - window.OVERHEAD
        call = changed(self._inner, deadline=action.deadline or self.call.deadline)
        checks = self.plan.max_tool_calls if self._tools_of(self.plan.judge) else 0
        finding = await self._judged(action.answers, room, checks, call)
        stages += finding.stages
        if finding.too_long:
            # The estimate was too good: this text has more tokens than most. What it found by its
            # tools made it longer, and they may be used up.
            finding = await self._judged(action.answers, room // 2, 0, call)
            stages += finding.stages
        return finding

    async def _judged(
        self, answers: tuple[engine.Answer, ...], room: int, checks: int, call: Call
    ) -> Finding:
        conversation = self.request.messages
        question = self._question
        asked = window.tokens(question)
        if asked > room // 2:
            question = await self._reduction.text(question, room // 2, question, call)
            conversation, asked = (user(question),), room // 2
        short = await self._reduction.fit(answers, room - asked, question, call)
        if short is not answers:
            self._short = short
        prices = self.run.terms.prices
        case = Case(
            model=self.plan.judge,
            conversation=conversation,
            answers=short,
            max_tokens=self.plan.analysis_tokens,
            pick=self.plan.answer == "best_of",
            tools=self._box.left() if self._box else (),
            max_tool_calls=checks,
            spare=(prices.judge or 0) if prices else 0,
            effort=self.plan.effort,
        )
        return await self._resources.judge.judge(case, call)

    # The inbox

    async def _arrival(self) -> None:
        """Until something has happened, at the latest a `Tick` when the engine wants one."""
        wake_at = self.run.wake_at
        # A timer that rings too early wakes the engine for nothing, and is set anew then.
        if wake_at is not None and wake_at < self._rings_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._rings_at = self._clock.call_at(wake_at, self._ring), wake_at
        self._waiter = self._loop.create_future()
        await self._waiter

    def _put(self, happened: engine.Event | Progress) -> None:
        self._inbox.append(happened)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _ring(self) -> None:
        self._rings_at = inf
        self._put(engine.Tick())

    def _progress(self, happened: engine.Event) -> Progress | None:
        """What a listener is told of this event, if it is still waited for."""
        if isinstance(happened, engine.Judged | engine.JudgeFailed):
            self._comparing = False
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


def _internal(error: Exception) -> FusionError:
    """Our own fault in an inner call, told as its failure: whoever waits for it must hear of it."""
    log.error("an inner call of a fusion failed", exc_info=error)
    return FusionError(f"Internal error: {type(error).__name__}.")


def _size(answers: tuple[engine.Answer, ...]) -> int:
    return sum(window.tokens(answer.text) for answer in answers)


def _cost(stages: tuple[Stage, ...] | list[Stage]) -> int:
    cost = 0
    for stage in stages:
        cost += stage.nano_usd or 0
    return cost
