"""The gateway's side of a hosted model, over a handle that a test owns."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from models.call import Call
from models.errors import DeadlineExceeded, Overloaded
from models.messages import Request, Sampling, user
from models.workforce.totals import ELSEWHERE

# Ray's modules use what their libraries call old.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Response:
    """One of Serve's that never comes."""

    def __init__(self) -> None:
        self.cancelled = False

    def __await__(self) -> Any:
        return asyncio.sleep(60).__await__()

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    def __init__(self) -> None:
        self.response = Response()

    def options(self, **_: Any) -> Handle:
        return self

    def remote(self, _: Any) -> Response:
        return self.response


class Full:
    """Serve where no replica takes it: what it was given, and no answer."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def options(self, **_: Any) -> Full:
        return self

    def remote(self, body: dict[str, Any]) -> Full:
        self.bodies.append(body)
        return self

    def __await__(self) -> Any:
        return self._refused().__await__()

    def __aiter__(self) -> Full:
        return self

    async def __anext__(self) -> Any:
        await self._refused()

    async def _refused(self) -> None:
        from ray.serve.exceptions import BackPressureError

        raise BackPressureError(3, 2)

    def cancel(self) -> None: ...


async def test_what_went_elsewhere_is_told_again_where_no_replica_heard_of_it() -> None:
    from models.workforce.answerer import Workforce

    full, request = Full(), Request("m", (user("hi"),))
    workforce = Workforce("m", full)
    workforce.missed = 50
    with pytest.raises(Overloaded):
        await workforce.complete(request, Call())
    assert workforce.missed == 50
    with pytest.raises(Overloaded):
        [_ async for _ in workforce.stream(request, Call())]
    assert workforce.missed == 50
    assert [body[ELSEWHERE] for body in full.bodies] == [50, 50]


async def test_a_count_that_takes_too_long_is_taken_off_the_replica() -> None:
    from models.workforce.answerer import Workforce

    handle = Handle()
    with pytest.raises(DeadlineExceeded):
        await Workforce("m", handle).count(Request("m", (user("hi"),)), within_s=0.02)
    assert handle.response.cancelled


def test_a_ticket_says_what_is_read_since_when_it_waits_and_for_how_long_it_can() -> None:
    from models.workforce.answerer import ticket

    request = Request("m", (user("x" * 4_000),), Sampling(max_tokens=10))
    fresh = ticket(request, Call(key="k"), now_s=50.0)
    assert (fresh.caller, fresh.low) == ("k", False)
    assert (fresh.work, fresh.prompt) == (1010.0, 1000.0)
    assert (fresh.came_s, fresh.patience_s) == (50.0, math.inf)
    # One that has moved keeps its age; half of its time is the answer's.
    again = ticket(request, Call(priority="low", came=20.0, deadline=80.0), now_s=50.0)
    assert again.low
    assert (again.came_s, again.patience_s) == (20.0, 30.0)
