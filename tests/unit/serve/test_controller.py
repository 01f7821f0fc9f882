"""A controller that hangs, breaks and comes back, as who asks for its view meets it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from serve import controller
from serve.controller import Controller


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "ANSWERS_S", 0.05)
    monkeypatch.setattr(controller, "KEPT_S", 0.0)


class Ray:
    def __init__(self) -> None:
        self.asked = 0
        self.answers = threading.Event()
        self.error: Exception | None = None

    def applications(self) -> Mapping[str, Any]:
        self.asked += 1
        assert self.answers.wait(5)
        if self.error is not None:
            raise self.error
        return {"look": self.asked}


async def test_one_that_hangs_is_asked_once_for_all() -> None:
    ray = Ray()
    one = Controller(ray.applications)
    told = await asyncio.gather(*(one.applications() for _ in range(20)))
    assert told == [(None, False)] * 20
    assert await one.applications() == (None, False)
    assert ray.asked == 1
    ray.answers.set()
    await until_seen(one, {"look": 1})


async def test_what_was_seen_last_is_shown_and_said_to_be_old() -> None:
    ray = Ray()
    ray.answers.set()
    one = Controller(ray.applications)
    await until_seen(one, {"look": 1})
    ray.error = RuntimeError("restarts")
    assert await one.applications() == ({"look": 1}, False)


async def test_a_look_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "KEPT_S", 60.0)
    ray = Ray()
    ray.answers.set()
    one = Controller(ray.applications)
    for _ in range(3):
        assert await one.applications() == ({"look": 1}, True)


async def until_seen(one: Controller, wanted: Mapping[str, Any]) -> None:
    for _ in range(100):
        seen, _ = await one.applications()
        if seen == wanted:
            return
    raise AssertionError(seen)
