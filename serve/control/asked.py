"""From a ruling to an error: a refusal, or an ask on its way to where a request is parked."""

from __future__ import annotations

from typing import Any

from models.errors import ApprovalNeeded, FusionError, Overloaded, PolicyDenied
from serve.control.policy.engine import Ruling


class Asked(ApprovalNeeded):
    """Keeps what was asked, for as long as it stays in its process."""

    def __init__(self, ruling: Ruling) -> None:
        super().__init__(f"{ruling.reason} A person must allow it.")
        self.ruling = ruling

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process cannot park the request, and needs no ruling.
        return (ApprovalNeeded, (self.message,))


def passed(ruling: Ruling) -> Ruling:
    """A ruling that lets its event pass. Raises what it says otherwise."""
    if ruling.decision == "deny":
        raise refusal(ruling)
    if ruling.decision == "ask":
        raise Asked(ruling)
    return ruling


def refusal(ruling: Ruling) -> FusionError:
    """What a caller gets who is denied."""
    waits = [said.verdict.retry_after_s for said in ruling.objections]
    if waits and all(wait is not None for wait in waits):
        return Overloaded(ruling.reason, retry_after_s=max(wait or 0 for wait in waits))
    return PolicyDenied(f"{ruling.reason} This request was not answered.")
