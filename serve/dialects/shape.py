"""A JSON body as a checked record: what every dialect's request is read by. Pure.

Strict: "0.5" is not a number and true is not 1. An unknown field is refused, never ignored, and
every refusal names the field as the client wrote it.

A `Row` is as long as its client likes. It is a `Listed` where something is put in order before it
is checked (`BeforeValidator`), since what has passed through Python is no JSON any more, and a list
then no tuple. Both end at their first mistake: a million of them would hold everybody up for
seconds, and only one is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from models.errors import BadRequest, FusionError
from models.messages import Effort, Message

#: A client's own text in our message is cut here.
_LONGEST = 300
#: More mistakes than this are not looked through for the one to tell.
_MOST_ERRORS = 1000

One = TypeVar("One")
Row = Annotated[tuple[One, ...], Field(fail_fast=True)]
Listed = Annotated[list[One], Field(fail_fast=True)]


class Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Loose(Shape):
    """What a client got as an answer and sends back as history, unknown extras included."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


Body = TypeVar("Body", bound=Shape)


def read(raw: bytes, kind: type[Body]) -> Body:
    """The record in this HTTP body. Raises BadRequest that names the field."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not valid UTF-8 (byte {error.start}).") from None
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise _explain(error, raw) from None


def _explain(error: ValidationError, raw: bytes) -> FusionError:
    if error.error_count() > _MOST_ERRORS:
        return BadRequest(f"The body has more than {_MOST_ERRORS} mistakes.")
    found = error.errors(include_url=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return BadRequest(f"The body is not valid JSON: {found[0]['msg']}.")
    document = json.loads(raw)
    # Where a field may have several forms, the form that was meant is the one that fits longest.
    first = max(found, key=lambda one: len(_place(document, one)))
    param = ".".join(_place(document, first))[:_LONGEST] or None
    if first["type"] == "extra_forbidden":
        return BadRequest(f"Unknown parameter: '{param}'.", param=param)
    if first["type"] == "missing" or _lacks_its_type(first):
        return BadRequest(f"Missing required parameter: '{param}'.", param=param)
    what = "body" if param is None else f"'{param}'"
    return BadRequest(f"Invalid {what}: {_words(first)[:_LONGEST]}.", param=param)


def _words(error: Mapping[str, Any]) -> str:
    """What is wrong, in words of JSON and not of Python."""
    told = error.get("ctx", {})
    match error["type"]:
        case "too_short":
            return f"its length must be at least {told['min_length']}"
        case "too_long":
            return f"its length must be at most {told['max_length']}"
        case "union_tag_invalid":
            return f"'{told['tag'][:64]}' is none of {told['expected_tags']}"
    words: str = error["msg"]
    return words.removeprefix("Value error, ").rstrip(".")


def _lacks_its_type(error: Mapping[str, Any]) -> bool:
    """Whether this is an object that must say in a field of what kind it is, and does not. Quotes
    tell a field from a function of ours."""
    by = str(error.get("ctx", {}).get("discriminator", ""))
    return error["type"] == "union_tag_not_found" and by.startswith("'")


def _place(document: Any, error: Mapping[str, Any]) -> list[str]:
    """The path of an error in what the client sent: without the names of our own classes."""
    place: list[str] = []
    here = document
    for index, part in enumerate(error["loc"]):
        inside = (
            part in here
            if isinstance(here, dict)
            else isinstance(here, list) and (isinstance(part, int) and part < len(here))
        )
        if inside:
            here = here[part]
        elif error["type"] != "missing" or index < len(error["loc"]) - 1:
            continue
        place.append(str(part))
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        # Named in quotes where it is a field, and our function's name where it is worked out.
        by = error["ctx"]["discriminator"]
        place.append(by.strip("'") if by.startswith("'") else "type")
    return place


def refuse_silence(messages: Iterable[Message], param: str) -> None:
    """Raises BadRequest where nothing is said. A tool's result may be empty: it came."""
    if not any(one.content or one.tool_calls or one.role == "tool" for one in messages):
        raise BadRequest("Every message is empty.", param=param)


def _inner(effort: Any) -> Any:
    return "xhigh" if effort == "max" else effort


#: As clients name it: their `max` is our highest.
AskedEffort = Annotated[Effort, BeforeValidator(_inner)]

#: The longest thought, in tokens, that each effort stands for where a client counts tokens.
_BUDGETS: tuple[tuple[int, Effort], ...] = ((2_048, "low"), (8_192, "medium"), (24_576, "high"))


def effort_of(tokens: int) -> Effort:
    """The effort behind a budget of thinking tokens."""
    return next((effort for most, effort in _BUDGETS if tokens <= most), "xhigh")
