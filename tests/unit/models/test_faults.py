"""The fault matrix: every fault, whole and streamed, in three dialects."""

from __future__ import annotations

import pytest
from faults import ENGINES, FAULTS, seen

from models.flagship.client import new_connections

#: What the caller sees, whole and streamed: the same in every dialect.
GOOD = "the answer, asked 1x"
BROKEN = "502 upstream_error, asked 1x"
EXPECTED = {
    "none": (GOOD, GOOD),
    # Nothing was sent, or the provider says that it did nothing: safe to repeat.
    "connection refused": ("503 unavailable, asked 3x",) * 2,
    "429 with Retry-After": ("429 rate_limited, asked 3x",) * 2,
    "429 without Retry-After": ("429 rate_limited, asked 3x",) * 2,
    "529": ("503 unavailable, asked 3x",) * 2,
    "200 with an error body": ("503 unavailable, asked 3x",) * 2,
    # Nobody waits so long; who stands outside may know a better place to ask.
    "429 with a long Retry-After": ("429 rate_limited, asked 1x",) * 2,
    "429 for lack of money": ("502 account_refused, asked 1x",) * 2,
    "401": ("502 account_refused, asked 1x",) * 2,
    # The provider may have worked, and may bill it.
    "reset before the body": (BROKEN, BROKEN),
    "reset in the body": (BROKEN, BROKEN),
    "500": (BROKEN, BROKEN),
    "truncated": (BROKEN, BROKEN),
    "invalid JSON": (BROKEN, BROKEN),
    "wrong content type": (BROKEN, BROKEN),
    "redirect": (BROKEN, BROKEN),
    "reset after the body": (GOOD, GOOD),
    "slow drip, in time": (GOOD, GOOD),
    "slow drip, too slow": ("504 deadline_exceeded, asked 1x",) * 2,
    "never ends": ("504 deadline_exceeded, asked 1x",) * 2,
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("engine", ENGINES)
async def test_what_the_caller_sees(engine: str, stream: bool) -> None:
    async with new_connections() as connections:
        found = {fault: str(await seen(connections, fault, engine, stream)) for fault in FAULTS}
    assert found == {fault: expected[stream] for fault, expected in EXPECTED.items()}
