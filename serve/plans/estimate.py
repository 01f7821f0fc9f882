"""What a plan costs, told before its first subtask: from about here to there. Pure.

The lower end: each step by the cheapest model that its name may choose, an answer as long as its
kind's usually is, four bytes a token. The upper end: by the dearest, answers as long as allowed,
as many tokens as the text has bytes. No step is done twice in either: a failure, a rejection or a
cascade of the router comes on top. What holds is a budget.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from models import prices
from models.catalog import Catalog
from models.messages import Request, Usage
from serve.money import bound
from serve.plans import prompts
from serve.plans.graph import MOST_ITEMS, Graph, Kind, Subtask, levels_of

#: Tokens that an answer of each kind usually has,
_USUAL: Mapping[Kind, int] = {
    "design": 700,
    "read": 150,
    "search": 300,
    "extract": 300,
    "write": 700,
    "code": 900,
    "check": 80,
    "decide": 400,
}
#: and the final one.
_USUAL_ANSWER = 700
#: Items of a list that nobody has written yet.
_USUAL_ITEMS = 3
_BYTES_A_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Span:
    """From and to: tokens, or nano-dollars. An upper end of None is whatever is allowed."""

    low: int = 0
    high: int | None = 0

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, _known(operator.add, self.high, other.high))

    def times(self, other: Span) -> Span:
        return Span(self.low * other.low, _known(operator.mul, self.high, other.high))

    def within(self, most: int | None) -> Span:
        """None: as it is."""
        if most is None:
            return self
        return Span(min(self.low, most), most if self.high is None else min(self.high, most))


def _known(of: Callable[[int, int], int], one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else of(one, other)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Nano-dollars without what `unpriced` models cost, and the tokens that are written."""

    nano_usd: Span = Span()
    wrote: Span = Span()
    unpriced: frozenset[str] = frozenset()

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.nano_usd + other.nano_usd,
            self.wrote + other.wrote,
            self.unpriced | other.unpriced,
        )

    def told(self) -> dict[str, Any]:
        """`{"from_usd", "to_usd"}`, and `unpriced` where there are such models."""
        told: dict[str, Any] = {
            "from_usd": prices.usd(self.nano_usd.low),
            "to_usd": prices.usd(self.nano_usd.high or 0),
        }
        return told | {"unpriced": sorted(self.unpriced)} if self.unpriced else told


def estimate(
    graph: Graph, task: str, names: Mapping[str, str], writer: str, catalog: Catalog
) -> Estimate:
    """Of the subtasks in `names`, each by the name that is asked, and of the answer.

    Subtasks that are not in `names` are done: they cost nothing more and are only read.
    """
    total = Estimate()
    made: dict[str, Span] = {}
    levels, asked = levels_of(graph.by_id()), bound.text_tokens(task)
    for one in sorted(graph.subtasks, key=lambda subtask: levels[subtask.id]):
        prompt = _frame(one.kind) + asked + bound.text_tokens(one.task)
        reads = _sum([_tokens(prompt), *(made[need] for need in one.inputs)])
        writes = Span(_USUAL[one.kind], None).within(one.max_tokens)
        if one.id in names:
            step = _of_name(names[one.id], reads, writes, catalog)
        else:
            step = Estimate(wrote=Span(writes.low, writes.low))
        times = Span(_USUAL_ITEMS, MOST_ITEMS) if one.each is not None else Span(1, 1)
        made[one.id] = step.wrote.times(times)
        total += Estimate(step.nano_usd.times(times), unpriced=step.unpriced)
    reads = _sum([_tokens(asked), *made.values()])
    return total + _of_name(writer, reads, Span(_USUAL_ANSWER, None), catalog)


@cache
def _frame(kind: Kind) -> int:
    """Tokens that a subtask's prompt has at most beside its two tasks and the results of others."""
    bare = Subtask(id="x", kind=kind, task=" ")
    return bound.input_tokens(Request("", prompts.working("", bare, (), None)), 0)


def _tokens(most: int) -> Span:
    return Span(most // _BYTES_A_TOKEN, most)


def _sum(spans: Iterable[Span]) -> Span:
    lows, highs = zip(*((one.low, one.high) for one in spans), strict=True)
    return Span(sum(lows), None if None in highs else sum(highs))


def _of_name(name: str, reads: Span, writes: Span, catalog: Catalog) -> Estimate:
    target = catalog.resolve(name)
    if target is not None and target.kind == "model":
        return _of_model(target.name, reads, writes, catalog)
    if target is not None and target.kind == "panel":
        return _of_panel(target.name, reads, writes, catalog)
    # The router's: any model, or one of its panels.
    open_to = [_of_model(one, reads, writes, catalog) for one in catalog.models]
    open_to += [_of_panel(one, reads, writes, catalog) for one in catalog.router.panels]
    priced = [one for one in open_to if not one.unpriced]
    if not priced:
        return max(open_to, key=lambda one: one.nano_usd.low)
    return Estimate(
        Span(
            min(one.nano_usd.low for one in priced), max(one.nano_usd.high or 0 for one in priced)
        ),
        Span(min(one.wrote.low for one in priced), max(one.wrote.high or 0 for one in priced)),
    )


def _of_model(name: str, reads: Span, writes: Span, catalog: Catalog) -> Estimate:
    spec = catalog.models[name]
    wrote, read = writes.within(spec.max_output), reads.within(spec.context)
    if spec.price is None:
        return Estimate(wrote=wrote, unpriced=frozenset({name}))
    low = spec.price.cost(Usage(input=read.low, output=wrote.low))
    return Estimate(Span(low, spec.price.worst(read.high or 0, wrote.high or 0)), wrote)


def _of_panel(name: str, reads: Span, writes: Span, catalog: Catalog) -> Estimate:
    panel = catalog.panels[name]
    members = (
        _of_name(one.model, reads, writes.within(one.max_tokens), catalog) for one in panel.places
    )
    answers = sum(members, Estimate())
    seen = reads + answers.wrote
    analysis = _tokens(panel.analysis_tokens)
    judge = _of_model(catalog.judge_of(name), seen, analysis, catalog)
    writer = _of_model(catalog.writer_of(name), seen + judge.wrote, writes, catalog)
    spent = answers + judge + writer
    return Estimate(spent.nano_usd, writer.wrote, spent.unpriced)
