"""A file of verdicts: `{"runs": [{"verdicts": [{"criterion_id", "weight", "verdict"}]}]}`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from serve.evaluation.draco.scoring import Judged, ScoringError, Verdict


class _Verdict(BaseModel):
    # What else a judge's record holds (its reason, say) is none of the score's business.
    model_config = ConfigDict(extra="ignore", strict=True)

    criterion_id: str | int
    weight: Annotated[FiniteFloat, Field(ge=-1e12, le=1e12)]
    #: Must be there: a forgotten verdict is not the same as one that was asked for in vain.
    verdict: Verdict | None

    @field_validator("criterion_id")
    @classmethod
    def _is_text(cls, value: str | int) -> str:
        return str(value)


class _Run(BaseModel):
    verdicts: list[_Verdict]


class _File(BaseModel):
    runs: list[_Run]


def read_verdicts(path: Path) -> list[list[Judged]]:
    """The judge runs of a file. Raises OSError, or ScoringError that names the wrong verdict."""
    try:
        file = _File.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ScoringError(f"{path}: {place}: {first['msg']}") from None
    return [
        [Judged(str(one.criterion_id), one.weight, one.verdict) for one in run.verdicts]
        for run in file.runs
    ]
