"""What a provider's headers say about the limits of an account. Pure.

OpenAI and those like it say `x-ratelimit-limit-requests`, Anthropic
`anthropic-ratelimit-requests-limit`. When it resets is not read: what remains says enough.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

#: Retry-After above this is taken for this: a client should ask again within the hour.
MAX_RETRY_AFTER_S = 3600.0


class Left(NamedTuple):
    """A limit, and how much of it remains."""

    limit: int
    remaining: int


class Seen(NamedTuple):
    """An account as its provider sees it. None: it does not say."""

    requests: Left | None = None
    tokens: Left | None = None


def seen(headers: Mapping[str, str]) -> Seen | None:
    """None where the headers say nothing."""
    found = Seen(
        _left(headers, "requests"),
        # Anthropic's `tokens` is the tightest of its limits at the moment.
        _left(headers, "tokens") or _left(headers, "input-tokens"),
    )
    return None if found == Seen() else found


def _left(headers: Mapping[str, str], what: str) -> Left | None:
    for limit, remaining in (
        (f"x-ratelimit-limit-{what}", f"x-ratelimit-remaining-{what}"),
        (f"anthropic-ratelimit-{what}-limit", f"anthropic-ratelimit-{what}-remaining"),
    ):
        most, left = _number(headers.get(limit)), _number(headers.get(remaining))
        # Some servers send 0 or -1 for "no limit".
        if most and left is not None:
            return Left(most, min(left, most))
    return None


def _number(value: str | None) -> int | None:
    text = (value or "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a provider asks to wait, from any of the three ways to say it."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        # What cannot be read says nothing; the other header may.
        with suppress(ValueError, OverflowError):
            wait = (
                email.utils.parsedate_to_datetime(value).timestamp() - now
                if ":" in value
                else float(value) * unit
            )
            # Written so that NaN falls out too.
            return min(wait, MAX_RETRY_AFTER_S) if wait >= 0 else 0.0
    return None
