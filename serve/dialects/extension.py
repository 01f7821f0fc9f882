"""What this server adds to every dialect, under the key `fusion` of request and answer. Pure."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from pydantic import Field

from models import prices
from models.messages import Completion, RouteOptions, Source, Stage
from serve.dialects.shape import Shape
from serve.money import headers


class Extension(Shape):
    """Of a request."""

    #: Put each panelist's answer into the response.
    expose_panel: bool = False
    #: Send what happens on the way as events of the stream.
    events: bool = False
    #: Seconds until the whole request is given up.
    deadline_s: float | None = Field(None, gt=0, le=86_400)
    #: The most that the whole request may cost, in US dollars.
    cost_cap_usd: float | None = Field(None, gt=0, le=1_000_000)
    #: The session that the request belongs to; as the header `x-session-id`.
    session_id: str | None = Field(None, pattern=r"^[\x21-\x7e]{1,255}$")
    #: Seconds to wait where a person must allow the request; as `x-approval-wait-s`.
    approval_wait_s: float | None = Field(None, ge=0, le=86_400)

    @property
    def call(self) -> dict[str, Any]:
        """The fields of a `Call` that it sets. A header that says the same comes before it."""
        given = {"session": self.session_id, "waits_s": self.approval_wait_s}
        return {name: value for name, value in given.items() if value is not None}

    #: For `fusion/auto`: 0 as cheap as can be to 1 as good as can be.
    quality: float | None = Field(None, ge=0, le=1)
    #: For `fusion/auto`: part of all tokens that flagships should write.
    flagship_share: float | None = Field(None, ge=0, le=1)
    #: For `fusion/auto`: the kind of subtask that this is.
    kind: str | None = None

    @property
    def route(self) -> RouteOptions | None:
        """What it says about who should answer, if anything."""
        said = RouteOptions(
            quality=self.quality, flagship_share=self.flagship_share, kind=self.kind
        )
        return None if said == RouteOptions() else said

    @property
    def cost_cap_nano_usd(self) -> int | None:
        cap = self.cost_cap_usd
        return None if cap is None else int(Decimal(str(cap)) * prices.NANO_PER_USD)


def told(answer: Completion, wanted: Extension) -> dict[str, Any]:
    """Of an answer: cost and tokens by stage, its sources, and what a fusion or a route tells.
    Costs are decimal strings of US dollars, null where unpriced."""
    found = {
        key: value
        for key, value in answer.extension.items()
        if key != "responses" or wanted.expose_panel
    }
    return {
        "cost_usd": cost(answer.stages),
        "stages": [shown(stage) for stage in answer.stages],
        **found,
        **sources(answer.sources),
    }


def sources(found: tuple[Source, ...]) -> dict[str, Any]:
    """`sources` as the Fusion contract lists them, or nothing."""
    listed = [{"url": source.url, "title": source.title} for source in found]
    return {"sources": listed} if listed else {}


def cited(text: str, found: tuple[Source, ...]) -> list[tuple[Source, int, int]]:
    """The sources whose address stands in `text`, and where it does, in characters."""
    places = ((source, _place(text, source.url)) for source in found if source.url)
    return [(source, at, at + len(source.url)) for source, at in places if at >= 0]


def _place(text: str, url: str) -> int:
    """Where this address stands and no longer one, or -1."""
    ends = re.compile(re.escape(url) + r"(?![\w/?#&=%~+-]|[.,:;!]\w)")
    found = ends.search(text)
    return -1 if found is None else found.start()


def cost(stages: tuple[Stage, ...]) -> str | None:
    """The sum of the stages, or None if one that ran has no price."""
    total = headers.cost(stages)
    return None if total is None else prices.usd(total)


def shown(stage: Stage) -> dict[str, Any]:
    """One inner call as a caller sees it."""
    out: dict[str, Any] = {
        "role": stage.role,
        "model": stage.model,
        "input_tokens": stage.usage.input,
        "output_tokens": stage.usage.output,
        "cached_tokens": stage.usage.cached,
        "seconds": round(stage.seconds, 4),
        "cost_usd": None if stage.nano_usd is None else prices.usd(stage.nano_usd),
    }
    if stage.member is not None:
        out["member"] = stage.member
    if stage.error is not None:
        out["error"] = stage.error
    return out
