"""Our errors in OpenAI's shape."""

from __future__ import annotations

import math
from typing import Any

from models.errors import ApprovalNeeded, FusionError


def body(error: FusionError) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`; where a person is asked, as what; and
    the plan that broke off, which can be resumed."""
    told: dict[str, Any] = {
        "message": error.message,
        "type": error.kind,
        "param": error.param,
        "code": error.code,
    }
    if isinstance(error, ApprovalNeeded) and error.approval:
        told["approval"] = error.approval
    if error.plan:
        told["plan"] = error.plan
    return {"error": told}


def headers(error: FusionError) -> dict[str, str]:
    """Retry-After, in whole seconds, where the error says when to come back; and a word to the
    official clients, which else repeat what may have done its work and be paid twice."""
    told: dict[str, str] = {}
    if error.retry_after_s is not None:
        told["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 409 or (error.status >= 500 and not error.safe_to_repeat):
        told["x-should-retry"] = "false"
    return told
