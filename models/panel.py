"""A panel as the catalog writes it: who answers one prompt in parallel, who judges, who writes."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from models.messages import Sampling
from models.record import Record
from models.spec import Name

MAX_PANEL = 8


def _bare_name(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class Member(Record):
    """One panelist: a model with its own sampling and persona."""

    model: Name
    #: An instruction put behind the conversation, to make this panelist look elsewhere.
    persona: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


class Panel(Record):
    """The models that answer one prompt in parallel, and who judges and writes."""

    members: tuple[Annotated[Member, BeforeValidator(_bare_name)], ...] = Field(
        min_length=1, max_length=MAX_PANEL
    )
    #: Who may take the place of a member that fails, in this order.
    candidates: tuple[Annotated[Member, BeforeValidator(_bare_name)], ...] = Field(
        (), max_length=MAX_PANEL
    )
    #: One member fused with itself: it stands in so many places.
    self: int = Field(1, ge=1, le=MAX_PANEL)
    #: How often the panel answers; from the second time on each member sees all answers.
    layers: int = Field(1, ge=1, le=4)
    #: How the final answer comes about. `judge_only` is the baseline: the judge by itself.
    answer: Literal["synthesis", "best_of", "judge_only"] = "synthesis"
    #: Default: `roles.judge`.
    judge: Name | None = None
    #: Default: the panel's judge, as in the Fusion contract.
    synthesis: Name | None = None
    #: Longest analysis of the judge, in tokens.
    analysis_tokens: int = Field(1024, ge=128)
    timeout_s: float = Field(300.0, gt=0)
    #: So many answers are enough. Default: two thirds of the places, rounded up.
    quorum: int | None = Field(None, ge=1, le=MAX_PANEL)
    #: How long the rest is waited for when enough answers are in.
    grace_s: float = Field(60.0, ge=0)
    #: The most that one answer of this panel may cost. A request may set a lower cap.
    cost_cap_usd: Decimal | None = Field(None, gt=0, le=1_000_000, decimal_places=9)
    #: Names of server tools for panelists and judge. Default: those of the web, as configured.
    tools: tuple[str, ...] | None = Field(None, max_length=8)
    #: Tool calls of each panelist and of the judge.
    max_tool_calls: int = Field(4, ge=1, le=16)

    @model_validator(mode="after")
    def _alone_with_itself(self) -> Panel:
        if self.self > 1 and len(self.members) > 1:
            raise ValueError("'self' fuses one member with itself and 'members' has several")
        if self.quorum is not None and self.quorum > len(self.places):
            raise ValueError(f"quorum ({self.quorum}) is above the places ({len(self.places)})")
        return self

    @property
    def places(self) -> tuple[Member, ...]:
        """Who answers, in order."""
        return self.members * self.self

    @property
    def member_names(self) -> tuple[str, ...]:
        """Each place's name, and then each candidate's: see `numbered`."""
        return numbered(member.model for member in (*self.places, *self.candidates))


def numbered(models: Iterable[str]) -> tuple[str, ...]:
    """These names, with `model#2` for a second place of the same model."""
    seen: dict[str, int] = {}
    names = []
    for model in models:
        seen[model] = count = seen.get(model, 0) + 1
        names.append(model if count == 1 else f"{model}#{count}")
    return tuple(names)
