"""Who should answer for `fusion/auto`: what the body's extension says, or the header's knob."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from models.errors import BadRequest
from models.messages import RouteOptions
from serve.dialects.dialect import Asked

#: The knob for clients whose dialect has no place for it.
HEADER = "x-fusion-quality"


def turned(asked: Asked, headers: Mapping[str, str]) -> Asked:
    """The request with its route options. Raises BadRequest for a header that is no knob."""
    route, said = asked.extension.route, headers.get(HEADER)
    if said is not None and (route is None or route.quality is None):
        try:
            quality = float(said)
        except ValueError:
            quality = -1.0
        if not 0.0 <= quality <= 1.0:
            raise BadRequest(f"The header {HEADER} is a number from 0 to 1.", param=HEADER)
        route = replace(route or RouteOptions(), quality=quality)
    if route is None:
        return asked
    return replace(asked, request=replace(asked.request, route=route))
