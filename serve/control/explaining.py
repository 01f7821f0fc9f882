"""Which rule would say what about a request, with counters that nothing has counted in yet.

Asks no model and changes nothing: `fusion policy explain`.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from pydantic import ValidationError

from models.call import Call
from models.catalog import Catalog, Target
from models.errors import FusionError
from models.messages import Request
from serve.control import neutral
from serve.control.policed import worst
from serve.control.policy.catalog import rules
from serve.control.policy.engine import Ruling, evaluate
from serve.control.policy.own import Decided, OwnRule
from serve.control.policy.values import Event, Policy, State
from serve.dialects.chat.request import parse


def rulings(catalog: Catalog, request: Request, call: Call, now: float) -> list[Ruling]:
    """On the request itself, then on each model that is sure to be asked.

    Raises ValueError where nothing is called as it says, or a rule of one's own cannot be loaded.
    """
    ruled = rules(catalog.policies)
    target = catalog.resolve(request.model)
    if target is None:
        raise ValueError(f"nothing is called '{request.model}'")
    events = [Event("request", now, call, request)]
    events += [
        Event("model_call", now, call, request, name, worst_nano_usd=worst(catalog, name, request))
        for name in _asked(catalog, target)
    ]
    return [
        asyncio.run(_ruling([rule.policy for rule in ruled if rule.concerns(event)], event))
        for event in events
    ]


def read(file: Path) -> Request:
    """A request in our own form, or as a client of OpenAI's chat dialect sends it.

    Raises ValueError where it is neither.
    """
    raw = file.read_bytes()
    try:
        return neutral.request(json.loads(raw))
    except ValidationError:
        pass
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: it is not JSON ({error})") from None
    try:
        return parse(raw).request
    except FusionError as error:
        raise ValueError(f"{file}: {error.message}") from None


def _asked(catalog: Catalog, target: Target) -> list[str]:
    """The concrete models that are sure to be asked, as far as the request's name says."""
    if target.kind == "model":
        return [target.name]
    if target.kind != "panel":
        return []
    panel = catalog.panels[target.name]
    names = [catalog.model_behind(member.model) for member in panel.members]
    return list(
        dict.fromkeys((*names, catalog.judge_of(target.name), catalog.writer_of(target.name)))
    )


async def _ruling(policies: list[Policy], event: Event) -> Ruling:
    asked = [
        Decided(one.name, one.phases, await one.ask(event)) if isinstance(one, OwnRule) else one
        for one in policies
    ]
    return evaluate(asked, event, State())
