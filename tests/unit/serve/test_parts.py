"""What a process builds of each catalog, where a newer one must not change what runs."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from models.answerer import Answerer
from models.call import Call
from models.catalog import Catalog
from models.fake import FakeClock, FakeModel
from models.messages import Request, user
from models.scaling import FIRST, Fleet
from models.spec import ModelSpec
from models.workforce.names import application_name, hosted
from serve.fleet import Count
from tests.housed import Queue

with warnings.catch_warnings():
    # Ray's modules use what their libraries call old.
    warnings.simplefilter("ignore", DeprecationWarning)
    from serve import parts

SPOT = {"usd_per_hour": 0.3, "mean_life_s": 7200, "notice_s": 30, "labels": {"market": "spot"}}
NODE = {"usd_per_hour": 1.0, "startup_s": 20, "labels": {"market": "on-demand"}}
REPLICA = {
    "prefill_tokens_per_s": 1000,
    "decode": {"step_base_s": 0.04, "step_per_sequence_s": 0.04, "max_batch": 8},
}


def catalog(gateways: int) -> Catalog:
    scaling = {"node": {**NODE, "spot": SPOT}, "replica": REPLICA}
    own = {"engine": "fake", "max_ongoing": 8, "scaling": scaling}
    server = {"gateways": gateways}
    return Catalog.model_validate(
        {"models": {"own": own}, "roles": {"judge": "own"}, "server": server}
    )


class Places(Queue):
    """Remembers for how many places one was to wait."""

    seen: float = 0.0

    def wait_s(self, request: Request, call: Call, places: float) -> float:
        self.seen = places
        return 0.0


class Own(parts.Parts):
    """One that was started as one of two gateways."""

    def __init__(self) -> None:
        nothing: Any = None
        super().__init__(None, FakeClock(1000.0), nothing, nothing, Fleet(), nothing, gateways=2)
        self.queue = Places()

    def _one(self, name: str, spec: ModelSpec) -> Answerer:
        return FakeModel(name, "here")

    def _workforce(self, name: str, spec: Any) -> Any:
        return self.queue


async def test_a_gateways_part_is_that_of_those_which_were_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    newer = catalog(gateways=4)
    spec = hosted(newer)["own"]
    running = {application_name("own", spec): {FIRST: Count(1, 1)}}
    monkeypatch.setattr(parts, "_counts", lambda: running)
    monkeypatch.setattr(
        parts.hosting, "handles", lambda *_: {FIRST: Handle(), "node/spot": Handle()}
    )
    own = Own()
    models = own.models(newer, lambda _, model: model)
    await models.complete(Request("own", (user("hi"),)), Call())
    assert own.queue.seen == 8 / 2
    placed: Any = own._deployed("own", spec)
    assert placed._room_of_one == 8 / 2


class Handle:
    def options(self, **_: Any) -> Handle:
        return self
