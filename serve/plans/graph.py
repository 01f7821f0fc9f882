"""A plan as a value: typed subtasks and what each needs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.catalog import SUBTASK_KINDS
from models.spec import Name

Kind = Literal["design", "read", "search", "extract", "write", "code", "check", "decide"]
Id = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=40)]

#: Most items that one subtask with `list` may return.
MOST_ITEMS = 24


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a plan may be. A plan past these is a mistake of the planner, not ambition."""

    subtasks: int = 256
    #: Subtasks that could run at the same time.
    width: int = 64
    #: Subtasks one behind the other.
    depth: int = 16


class Subtask(BaseModel):
    """One step. `needs` are the subtasks whose results it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Id
    kind: Kind
    task: str = Field(min_length=1, max_length=200_000)
    needs: tuple[Id, ...] = ()
    #: Who does it, in place of the catalog's role for this kind.
    model: Name | None = None
    max_tokens: int | None = Field(None, ge=1)
    #: Its result is a list of texts, which a subtask with `each` takes apart.
    list: bool = False
    #: Done once for each item of this subtask's list.
    each: Id | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """All that must be there before it starts."""
        return (*self.needs, *((self.each,) if self.each is not None else ()))


class Graph(BaseModel):
    """All subtasks, and how the answer is to be written from them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subtasks: tuple[Subtask, ...] = Field(min_length=1)
    #: An instruction to whoever writes the answer.
    answer: str = Field("", max_length=20_000)

    def by_id(self) -> dict[str, Subtask]:
        return {subtask.id: subtask for subtask in self.subtasks}


class BadGraph(ValueError):
    """Every reason why this is no plan, a line each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def parse(data: Any, limits: Limits = Limits()) -> Graph:
    """A checked graph. Raises BadGraph with every problem."""
    try:
        graph = Graph.model_validate(data)
    except ValidationError as error:
        raise BadGraph(
            f"{'.'.join(map(str, one['loc'])) or 'plan'}: {one['msg']}"
            for one in error.errors(include_url=False)[:20]
        ) from None
    if problems := list(_problems(graph, limits)):
        raise BadGraph(problems)
    return graph


def _problems(graph: Graph, limits: Limits) -> Iterator[str]:
    if len(graph.subtasks) > limits.subtasks:
        yield f"{len(graph.subtasks)} subtasks; at most {limits.subtasks} are allowed"
        return
    known = graph.by_id()
    if len(known) < len(graph.subtasks):
        ids = [subtask.id for subtask in graph.subtasks]
        yield f"ids stand twice: {', '.join(sorted({one for one in ids if ids.count(one) > 1}))}"
        return
    lost = False
    for subtask in graph.subtasks:
        for need in subtask.inputs:
            if need not in known:
                lost = True
                yield f"'{subtask.id}' needs '{need}', which does not exist"
        if subtask.kind == "check" and not subtask.needs:
            yield f"'{subtask.id}' checks nothing: it needs the subtask that it judges"
        if subtask.each is not None and subtask.each in known and not known[subtask.each].list:
            yield f"'{subtask.id}' is done for each item of '{subtask.each}', which is no list"
        if subtask.kind == "check":
            # What is made of a list is under way by the time that somebody could reject it.
            for need in subtask.needs:
                if need in known and known[need].list:
                    yield f"'{subtask.id}' checks the list '{need}'; check what is made of it"
        if subtask.list and subtask.each is not None:
            yield f"'{subtask.id}' is a list of lists, which nothing can take apart"
    if lost:
        return
    if circle := _circle(known):
        yield f"it goes in a circle: {' → '.join(circle)}"
        return
    levels = levels_of(known)
    depth = max(levels.values()) + 1
    if depth > limits.depth:
        yield f"{depth} subtasks stand one behind the other; at most {limits.depth} may"
    width = max(Counter(levels.values()).values())
    if width > limits.width:
        yield f"{width} subtasks stand side by side; at most {limits.width} may"


def _circle(known: Mapping[str, Subtask]) -> list[str] | None:
    """The ids of one circle, its first again at the end; None where there is none."""
    done: set[str] = set()
    for start in known:
        trail: list[str] = []
        places: dict[str, int] = {}
        # Depth first without recursion: a chain may be as long as there are subtasks.
        stack: list[tuple[str, Iterator[str]]] = []
        if start not in done:
            stack.append((start, iter(known[start].inputs)))
            places[start] = 0
            trail.append(start)
        while stack:
            here, rest = stack[-1]
            need = next(rest, None)
            if need is None:
                stack.pop()
                trail.pop()
                del places[here]
                done.add(here)
            elif need in places:
                return [*trail[places[need] :], need]
            elif need not in done:
                places[need] = len(trail)
                trail.append(need)
                stack.append((need, iter(known[need].inputs)))
    return None


def levels_of(known: Mapping[str, Subtask]) -> dict[str, int]:
    """How many subtasks must come before each, in a row."""
    levels = dict.fromkeys(known, 0)
    left = {one.id: len(one.inputs) for one in known.values()}
    needed_by: dict[str, list[str]] = {name: [] for name in known}
    for one in known.values():
        for need in one.inputs:
            needed_by[need].append(one.id)
    ready = [name for name, count in left.items() if not count]
    while ready:
        here = ready.pop()
        for after in needed_by[here]:
            levels[after] = max(levels[after], levels[here] + 1)
            left[after] -= 1
            if not left[after]:
                ready.append(after)
    return levels


def ancestors(known: Mapping[str, Subtask], of: str) -> set[str]:
    """All that this subtask needs, also by way of others."""
    found: set[str] = set()
    waiting = [of]
    while waiting:
        for need in known[waiting.pop()].inputs:
            if need not in found and need in known:
                found.add(need)
                waiting.append(need)
    return found


def expanded(graph: Graph, listed: str, items: tuple[str, ...]) -> Graph:
    """The graph once the list of `listed` is known: each subtask that is done for each of its
    items stands there once an item, and whoever needed it needs all of them."""
    made: dict[str, tuple[Subtask, ...]] = {}
    taken = set(graph.by_id())

    def free(subtask: str, number: int) -> str:
        names = (f"{subtask[:30]}-{number}-{mark}" for mark in count(1))
        name = next(one for one in chain((f"{subtask[:34]}-{number}",), names) if one not in taken)
        taken.add(name)
        return name

    for subtask in graph.subtasks:
        if subtask.each == listed:
            made[subtask.id] = tuple(
                subtask.model_copy(
                    update={
                        "id": free(subtask.id, number),
                        "task": f"{subtask.task}\n\nThis one:\n{item}",
                        "needs": (*subtask.needs, listed),
                        "each": None,
                    }
                )
                for number, item in enumerate(items, 1)
            )

    def needs(subtask: Subtask) -> tuple[str, ...]:
        return tuple(
            one
            for need in subtask.needs
            for one in ([part.id for part in made[need]] if need in made else [need])
        )

    parts = (
        one.model_copy(update={"needs": needs(one)})
        for subtask in graph.subtasks
        for one in made.get(subtask.id, (subtask,))
    )
    return graph.model_copy(update={"subtasks": tuple(parts)})


def schema(limits: Limits, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON schema that a planner fills. `names`: the models that it may pin, if any."""
    subtask: dict[str, Any] = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "^[a-z][a-z0-9_-]{0,30}$"},
            "kind": {"type": "string", "enum": list(SUBTASK_KINDS)},
            "task": {"type": "string", "maxLength": 1200},
            "needs": {"type": "array", "items": {"type": "string"}, "maxItems": 12},
        },
        "required": ["id", "kind", "task", "needs"],
        "additionalProperties": False,
    }
    if names:
        subtask["properties"]["model"] = {"type": "string", "enum": list(names)}
    return {
        "type": "object",
        "properties": {
            "subtasks": {
                "type": "array",
                "items": subtask,
                "minItems": 1,
                "maxItems": min(24, limits.subtasks),
            },
            "answer": {"type": "string", "maxLength": 600},
        },
        "required": ["subtasks", "answer"],
        "additionalProperties": False,
    }
