"""OpenAI's responses dialect: `/v1/responses`, with the Fusion contract's items and events."""

from serve.dialects.errors import body as error
from serve.dialects.responses.answer import whole
from serve.dialects.responses.request import parse
from serve.dialects.responses.stream import ResponseEvents as encoder

__all__ = ["encoder", "error", "parse", "whole"]
