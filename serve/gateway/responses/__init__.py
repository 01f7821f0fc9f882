"""OpenAI's responses dialect: `/v1/responses`, with the Fusion contract's items and events."""

from serve.gateway.errors import body as error
from serve.gateway.responses.answer import whole
from serve.gateway.responses.request import parse
from serve.gateway.responses.stream import ResponseEvents as encoder

__all__ = ["encoder", "error", "parse", "whole"]
