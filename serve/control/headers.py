"""What a client says about its request in headers, alike in every dialect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from models.errors import BadRequest

SESSION = "x-session-id"
#: Seconds that the client waits where a person must allow the request.
WAIT = "x-approval-wait-s"
IDEMPOTENCY = "idempotency-key"
MOST_WAIT_S = 86_400.0


def told(headers: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a `Call` that these headers set. Raises BadRequest that names the header."""
    fields: dict[str, Any] = {}
    if (session := headers.get(SESSION)) is not None:
        fields["session"] = _name(SESSION, session)
    if (key := headers.get(IDEMPOTENCY)) is not None:
        fields["idempotency_key"] = _name(IDEMPOTENCY, key)
    if (wait := headers.get(WAIT)) is not None:
        if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", wait) or float(wait) > MOST_WAIT_S:
            raise BadRequest(f"'{WAIT}' is a number of seconds, at most a day.", param=WAIT)
        fields["waits_s"] = float(wait)
    return fields


def _name(header: str, value: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]{1,255}", value):
        raise BadRequest(f"'{header}' is 1 to 255 visible characters.", param=header)
    return value
