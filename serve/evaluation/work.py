"""How an evaluation asks: every step is a batch, which may be killed and begun again.

A step is known by what it asks. Begun again, it joins its batch where that still runs, resumes it
where that ended early, and else asks in a new one, where each answer that was kept costs nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from serve.jobs.remote import Card, Remote

#: What says which step a batch is.
_STEP = "fusion_step"
#: How often a batch that nobody works on any more is begun again before that is told.
_TRIES = 3
Row = dict[str, Any]


class Stopped(Exception):
    """The money or the time ended; what is done is kept, and the same command goes on."""


@dataclass(slots=True)
class Work:
    """`budget` in US dollars is for all steps together."""

    remote: Remote
    report: Callable[[str, Card], None]
    budget: Decimal | None = None
    window: str = "24h"
    spent: Decimal = Decimal(0)
    #: Dollars of each step by its name.
    by_step: dict[str, Decimal] = field(default_factory=dict)

    def ask(self, step: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, Row]:
        """Rows of results by their ids. Raises Stopped, or RemoteError."""
        content = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
        if not content:
            return {}
        mark = hashlib.sha256(content).hexdigest()
        left = None if self.budget is None else self.budget - self.spent
        if left is not None and left <= 0:
            raise Stopped(f"The budget of ${self.budget} is spent before '{step}'.")
        for _ in range(_TRIES):
            card = self._begin(step, mark, content, left)
            card = self.remote.wait(card["id"], lambda seen: self.report(step, seen))
            if not card["fusion"]["interrupted"]:
                break
        cost = Decimal(card["fusion"]["spent_usd"])
        self.spent += cost
        self.by_step[step] = self.by_step.get(step, Decimal(0)) + cost
        if card["status"] != "completed":
            raise Stopped(_why(step, card))
        return {row["id"]: row for row in self.remote.rows(card["id"])}

    def _begin(self, step: str, mark: str, content: bytes, left: Decimal | None) -> Card:
        budget = None if left is None else float(left)
        for card in self.remote.get("/v1/batches?limit=100")["data"]:
            if card["metadata"].get(_STEP) != mark or card["status"] in ("completed", "failed"):
                continue
            if card["status"] in ("cancelled", "expired") or card["fusion"]["interrupted"]:
                body = {"completion_window": self.window}
                again = body if budget is None else body | {"budget_usd": budget}
                return self.remote.post(f"/v1/batches/{card['id']}/resume", again)
            found: Card = card
            return found
        file = self.remote.upload(f"{step}.jsonl", content)
        return self.remote.create(
            file,
            window=self.window,
            metadata={_STEP: mark, "step": step},
            budget_usd=budget,
            priority="low",
            bad_rows="stop",
        )


def _why(step: str, card: Card) -> str:
    if card["status"] == "failed":
        first = card["errors"]["data"][0]
        return f"'{step}' cannot be asked: {first['message']}"
    counts = card["request_counts"]
    return (
        f"'{step}' stopped ({card['fusion']['why'] or card['status']}) with {counts['completed']} "
        f"of {counts['total']} rows done. They are kept: the same command goes on from there."
    )
