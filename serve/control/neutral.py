"""Requests, calls and answers as JSON, in the form of our own records and of no vendor."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from models.call import Call
from models.messages import Completion, Message, Request

_ADAPTERS: dict[type, TypeAdapter[Any]] = {
    record: TypeAdapter(record) for record in (Request, Call, Completion, Message)
}


def write(record: Request | Call | Completion | Message) -> Any:
    """Without what is as it is by default."""
    return _ADAPTERS[type(record)].dump_python(record, mode="json", exclude_defaults=True)


def dumps(record: Completion | Message) -> str:
    """The same as text."""
    return json.dumps(write(record))


def request(data: Any) -> Request:
    made: Request = _ADAPTERS[Request].validate_python(data)
    return made


def call(data: Any) -> Call:
    made: Call = _ADAPTERS[Call].validate_python(data)
    return made


def completion(data: Any) -> Completion:
    made: Completion = _ADAPTERS[Completion].validate_python(data)
    return made


def message(data: Any) -> Message:
    """Raises ValueError, with what is wrong, for data of another form."""
    try:
        made: Message = _ADAPTERS[Message].validate_python(data)
        return made
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}") from None
