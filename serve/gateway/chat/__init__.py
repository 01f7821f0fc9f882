"""OpenAI's chat dialect: `/v1/chat/completions`."""

from serve.gateway.chat.answer import whole
from serve.gateway.chat.request import parse
from serve.gateway.chat.stream import Chunks as encoder
from serve.gateway.errors import body as error

__all__ = ["encoder", "error", "parse", "whole"]
