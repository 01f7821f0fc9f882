"""What callers are told of a plan: its graph, each step, who spent what. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models import prices
from models.catalog import Catalog
from models.messages import Completion, Progress, Stage, assistant
from serve.plans import run
from serve.plans.graph import Graph
from serve.plans.record import Saved
from serve.plans.run import Event, Run


def told_graph(made: Graph) -> list[Mapping[str, Any]]:
    return [
        {
            "id": one.id,
            "kind": one.kind,
            "needs": list(one.inputs),
            **({"model": one.model} if one.model else {}),
        }
        for one in made.subtasks
    ]


def told_step(step: run.Step, told_before: Mapping[str, Any]) -> dict[str, Any]:
    """A subtask as it stands; `told_before` is what was said of its last answer."""
    told: dict[str, Any] = {
        "id": step.subtask.id,
        "kind": step.subtask.kind,
        "needs": list(step.subtask.needs),
        "status": step.status,
        **told_before,
    }
    if step.accepted is not None:
        told["accepted"] = step.accepted
    if step.error is not None:
        told["error"] = step.error
    return told


def progress(happened: Event, state: Run, told: Mapping[str, Mapping[str, Any]]) -> Progress:
    """What a stream says of this event. `told`: of each subtask, what was said of its answer."""
    step = state.steps.get(happened.id)
    if step is None:  # its place was taken by others
        return Progress("plan.subtask.replaced", {"id": happened.id})
    kind = {"done": "completed", "waiting": "waiting", "running": "in_progress"}.get(
        step.status, step.status
    )
    return Progress(f"plan.subtask.{kind}", told_step(step, told.get(happened.id, {})))


def shares(stages: tuple[Stage, ...], catalog: Catalog) -> dict[str, Any]:
    """Tokens and dollars by tier, and by whose work it was: the brain's or the workforce's."""
    told: dict[str, Any] = {}
    for stage in stages:
        spec = catalog.models.get(stage.model)
        tier = spec.tier if spec is not None else "unknown"
        part = "brain" if stage.role in ("plan", "judge", "synthesis") else "work"
        for key in (f"tier:{tier}", f"part:{part}"):
            one = told.setdefault(key, {"tokens": 0, "nano_usd": 0})
            one["tokens"] += stage.usage.input + stage.usage.output
            one["nano_usd"] += stage.nano_usd or 0
    return {
        key: {"tokens": one["tokens"], "cost_usd": prices.usd(one["nano_usd"])}
        for key, one in sorted(told.items())
    }


def kept(saved: Saved) -> Completion:
    """The answer of a plan that is done. It was paid for then, so it has no stages now."""
    told = saved.told or {}
    return Completion(
        told.get("model", ""),
        assistant(told.get("answer", "")),
        extension={"plan": told.get("plan", {})},
    )
