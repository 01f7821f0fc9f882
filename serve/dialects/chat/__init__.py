"""OpenAI's chat dialect: `/v1/chat/completions`."""

from serve.dialects.chat.answer import whole
from serve.dialects.chat.request import parse
from serve.dialects.chat.stream import Chunks as encoder
from serve.dialects.errors import body as error

__all__ = ["encoder", "error", "parse", "whole"]
