"""Our errors in OpenAI's shape."""

from __future__ import annotations

import math
from typing import Any

from models.errors import FusionError


def body(error: FusionError) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.param,
            "code": error.code,
        }
    }


def headers(error: FusionError) -> dict[str, str]:
    """Retry-After, in whole seconds, where the error says when to come back."""
    if error.retry_after_s is None:
        return {}
    return {"retry-after": str(max(1, math.ceil(error.retry_after_s)))}
