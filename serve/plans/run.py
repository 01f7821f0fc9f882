"""What a plan does next, as a pure state machine: events in, actions out.

It knows neither models nor time. The runner (`serve.plans.plan`) carries the actions out and
reports what happened.

    waiting ──all its inputs settled──▶ running ──▶ done
                                          │ ──failed──▶ once more, one rung up its ladder
                                          │             ──▶ replanned around, once a plan
                                          │             ──▶ failed: who needs it goes on without
    a check that rejects sends what it judged back to waiting, one rung up, and waits itself
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from serve.plans.graph import MOST_ITEMS, BadGraph, Graph, Limits, Subtask, ancestors, expanded

Status = Literal["waiting", "running", "done", "failed", "skipped"]
#: Who does a subtask at its n-th try (from 0); None when it is not tried again.
Ladder = Callable[[Subtask, int], str | None]


@dataclass(frozen=True, slots=True)
class Input:
    """What a subtask reads of another. `text` is None where that did not come about."""

    id: str
    text: str | None


@dataclass(slots=True)
class Step:
    """Where one subtask stands."""

    subtask: Subtask
    status: Status = "waiting"
    #: Tries that ended.
    attempts: int = 0
    text: str | None = None
    error: str | None = None
    #: Why a check sent it back.
    feedback: str | None = None
    #: The last word of the checks on it. None: nobody checked, or no verdict could be read.
    accepted: bool | None = None

    @property
    def settled(self) -> bool:
        return self.status in ("done", "failed", "skipped")


# Events


@dataclass(frozen=True, slots=True)
class Finished:
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    id: str
    error: str


@dataclass(frozen=True, slots=True)
class OutOfMoney:
    """What is free of the budget does not cover it. What others have set aside may."""

    id: str


@dataclass(frozen=True, slots=True)
class Replanned:
    """What shall be done in place of a subtask that failed. Empty: nothing can be."""

    id: str
    subtasks: tuple[Subtask, ...] = ()


Event = Finished | Failed | OutOfMoney | Replanned

# Actions


@dataclass(frozen=True, slots=True)
class Start:
    subtask: Subtask
    #: The name to ask, and the number of this try, from 1.
    name: str
    attempt: int
    inputs: tuple[Input, ...]
    feedback: str | None


@dataclass(frozen=True, slots=True)
class Replan:
    subtask: Subtask
    error: str


@dataclass(frozen=True, slots=True)
class Converge:
    """Write the answer. `missing` are the ids of subtasks without a result."""

    results: tuple[Input, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GiveUp:
    error: str


Action = Start | Replan | Converge | GiveUp


@dataclass(slots=True)
class Run:
    """One plan under way. `done` are results that are there already, from before a restart."""

    graph: Graph
    ladder: Ladder
    parallel: int = 20
    replans: int = 1
    limits: Limits = field(default_factory=Limits)
    steps: dict[str, Step] = field(default_factory=dict)
    broke: bool = False
    ended: bool = False
    _held: bool = False
    _replanning: int = 0

    def start(
        self, done: Mapping[str, str] | None = None, tries: Mapping[str, int] | None = None
    ) -> list[Action]:
        """Begin, or go on. `done` is what was kept of each subtask, in the order of their ends, and
        `tries` how many each took."""
        self.steps = {one.id: Step(one) for one in self.graph.subtasks}
        place = {one_id: number for number, one_id in enumerate(done or ())}
        for one_id, text in (done or {}).items():
            step = self.steps.get(one_id)
            if step is None:
                continue
            needs = step.subtask.needs if step.subtask.kind == "check" else ()
            if any(place.get(need, -1) > place[one_id] for need in needs):
                continue  # what it judged was done anew since
            step.attempts = (tries or {}).get(one_id, 1)
            try:
                self._finish(step, text)
            except BadGraph:
                step.attempts = 0  # a list that is none, kept before anybody looked at it
        heeded = [self._heed(step) for step in list(self.steps.values()) if step.status == "done"]
        return [*(action for actions in heeded for action in actions), *self._next()]

    def on(self, event: Event) -> list[Action]:
        """What to do after this event. Raises ValueError for one that cannot happen now."""
        step = self.steps[event.id]
        match event:
            case Replanned(_, subtasks):
                self._replanning -= 1
                self._replace(step, subtasks)
                return self._next()
            case _ if step.status != "running":
                raise ValueError(f"'{event.id}' is not running")
            case Finished() | Failed() if self._held:
                # It has given back what it did not need: whoever lacked it may try again.
                self._held = False
                return self.on(event)
            case OutOfMoney():
                step.status = "waiting"
                self._held = True
                self.broke |= not self._running()
                return self._next()
            case Failed(_, error):
                return [*self._fail(step, error), *self._next()]
            case Finished(_, text):
                step.attempts += 1
                try:
                    self._finish(step, text)
                except BadGraph as error:
                    step.attempts -= 1
                    return [*self._fail(step, str(error)), *self._next()]
                return [*self._heed(step), *self._next()]

    def _finish(self, step: Step, text: str) -> None:
        if step.subtask.list:
            self._expand(step.subtask, items_of(text))
        step.status, step.text, step.error = "done", text, None

    def _expand(self, subtask: Subtask, items: tuple[str, ...]) -> None:
        if not items:
            raise BadGraph(["it returned no list"])
        graph = expanded(self.graph, subtask.id, items[:MOST_ITEMS])
        if len(graph.subtasks) > self.limits.subtasks:
            raise BadGraph([f"its list makes more than {self.limits.subtasks} subtasks"])
        self._take(graph)

    def _take(self, graph: Graph) -> None:
        """Go on with a changed graph; what is known about subtasks that stay is kept."""
        self.graph = graph
        before = self.steps
        self.steps = {}
        for one in graph.subtasks:
            step = self.steps[one.id] = before.get(one.id) or Step(one)
            step.subtask = one

    def _fail(self, step: Step, error: str) -> list[Action]:
        step.attempts += 1
        step.error = error
        if self.ladder(step.subtask, step.attempts) is not None:
            step.status = "waiting"
            return []
        # What is done for each of its items could not be done for another plan's.
        is_list = any(one.each == step.subtask.id for one in self.graph.subtasks)
        if self.replans > 0 and not self.broke and not is_list:
            self.replans -= 1
            self._replanning += 1
            step.status = "running"
            return [Replan(step.subtask, error)]
        step.status = "failed"
        return []

    def _replace(self, step: Step, subtasks: tuple[Subtask, ...]) -> None:
        old = step.subtask
        taken = {one.id for one in subtasks} & set(self.steps)
        if not subtasks or taken or len(self.steps) + len(subtasks) > self.limits.subtasks:
            step.status = "failed"
            return
        needed = {need for one in subtasks for need in one.needs}
        ends = tuple(one.id for one in subtasks if one.id not in needed)
        # The new ones read what the old one read; who needed it needs their ends.
        fresh = [
            one.model_copy(update={"needs": tuple(dict.fromkeys((*old.needs, *one.needs)))})
            for one in subtasks
        ]
        rest = [
            one.model_copy(
                update={
                    "needs": tuple(
                        part for need in one.needs for part in (ends if need == old.id else (need,))
                    )
                }
            )
            for one in self.graph.subtasks
            if one.id != old.id
        ]
        self._take(self.graph.model_copy(update={"subtasks": (*rest, *fresh)}))

    def _heed(self, check: Step) -> list[Action]:
        """A check has spoken: what it judged stands, or goes back."""
        if check.subtask.kind != "check" or check.text is None:
            return []
        verdict = verdict_of(check.text)
        if verdict is None:
            check.attempts -= 1
            return self._fail(check, "no verdict can be read in its answer")
        judged = [
            self.steps[need] for need in check.subtask.needs if self._is_judged(self.steps[need])
        ]
        for step in judged:
            step.accepted = verdict.accepted
        if verdict.accepted:
            return []
        again = [step for step in judged if self.ladder(step.subtask, step.attempts) is not None]
        for step in again:
            step.status, step.feedback = "waiting", verdict.reason
        if again:
            check.status, check.text = "waiting", None
            # A check is no failed try of its own; it may look as often as there is something new.
            check.attempts = 0
        return []

    def _is_judged(self, step: Step) -> bool:
        return step.subtask.kind != "check" and step.status == "done"

    def _next(self) -> list[Action]:
        if self.ended:
            return []
        self._skip()
        running = self._running()
        actions: list[Action] = []
        if not self.broke and not self._held:
            actions += self._starts(self.parallel - running)
        if not running and not actions and not self._replanning:
            self.ended = True
            actions.append(self._end())
        return actions

    def _starts(self, most: int) -> list[Action]:
        """Begin those whose inputs are there, in the graph's order, `most` of them."""
        if most <= 0:
            return []
        # This runs once an event, over all subtasks: it is most of what a wide plan costs.
        waiting = [step for step in self.steps.values() if step.status == "waiting"]
        unsettled = {step.subtask.id for step in waiting} | set(self._at_work())
        checks = [one for name in unsettled if (one := self.steps[name].subtask).kind == "check"]
        found: list[Action] = []
        for step in waiting:
            if unsettled.isdisjoint(step.subtask.needs) and self._is_ready(step, checks):
                name = self.ladder(step.subtask, step.attempts)
                assert name is not None, "a step that waits has another try"
                step.status = "running"
                inputs = tuple(Input(need, self.steps[need].text) for need in step.subtask.needs)
                found.append(Start(step.subtask, name, step.attempts + 1, inputs, step.feedback))
                if len(found) == most:
                    break
        return found

    def _at_work(self) -> list[str]:
        return [name for name, step in self.steps.items() if step.status == "running"]

    def _running(self) -> int:
        return len(self._at_work())

    def _skip(self) -> None:
        """Nothing can be made of a subtask none of whose inputs came about."""
        changed = any(step.status == "failed" for step in self.steps.values())
        while changed:
            changed = False
            for step in self.steps.values():
                inputs = [self.steps[need] for need in step.subtask.inputs]
                lost = bool(inputs) and all(one.status in ("failed", "skipped") for one in inputs)
                # A list that never came leaves nothing to do something for.
                each = step.subtask.each
                lost |= each is not None and self.steps[each].status in ("failed", "skipped")
                if step.status == "waiting" and lost:
                    step.status, step.error = "skipped", "what it needs did not come about"
                    changed = True

    def _is_ready(self, step: Step, checks: Sequence[Subtask]) -> bool:
        """Whether it may begin, now that its inputs are there. `checks` have not spoken yet."""
        if step.subtask.each is not None:
            return False  # it waits for its list, which takes it apart
        if step.subtask.kind == "check":
            return True
        # What is being checked is not built upon before its checks have spoken.
        return all(
            step.subtask.id in ancestors(self.graph.by_id(), check.id)
            for check in checks
            if not set(check.needs).isdisjoint(step.subtask.needs)
        )

    def _end(self) -> Action:
        done = [step for step in self.steps.values() if step.status == "done"]
        taken_up = {
            need for one in done if one.subtask.kind == "extract" for need in one.subtask.needs
        }
        results = tuple(
            Input(step.subtask.id, step.text)
            for step in done
            if step.text is not None
            # Of a folder of documents the writer reads what was found, not all that was read.
            and not (step.subtask.kind in ("read", "extract") and step.subtask.id in taken_up)
        )
        if not results:
            if self.broke:
                return GiveUp("the budget does not cover one subtask")
            errors = [f"{one.subtask.id}: {one.error}" for one in self.steps.values() if one.error]
            return GiveUp(f"no subtask succeeded ({'; '.join(errors[:5])})")
        missing = tuple(one.subtask.id for one in self.steps.values() if one.status != "done")
        return Converge(results, missing)


@dataclass(frozen=True, slots=True)
class Verdict:
    accepted: bool
    reason: str


def verdict_of(text: str) -> Verdict | None:
    """What a check says: JSON with `accepted` and `reason`, also with words around it."""
    data = json_in(text)
    if isinstance(data, dict) and isinstance(data.get("accepted"), bool):
        return Verdict(data["accepted"], str(data.get("reason") or ""))
    return None


def items_of(text: str) -> tuple[str, ...]:
    """The texts of a list: JSON (`{"items": [...]}` or an array), else its numbered or dotted
    lines."""
    data = json_in(text)
    if isinstance(data, dict):
        data = data.get("items")
    if isinstance(data, list):
        found = [one if isinstance(one, str) else json.dumps(one) for one in data]
    else:
        found = re.findall(r"^\s*(?:[-*•]|\d+[.)])\s+(.+)$", text, re.M)
    return tuple(one.strip() for one in found if one.strip())


def json_in(text: str) -> Any:
    """The first JSON object or array in this text."""
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if start < 0:
        return None
    try:
        return json.JSONDecoder().raw_decode(text[start:])[0]
    except (ValueError, RecursionError):
        return None
