"""Anthropic's messages dialect: `/v1/messages` and `/v1/messages/count_tokens`."""

from serve.dialects.messages.answer import error, whole
from serve.dialects.messages.request import parse
from serve.dialects.messages.stream import MessageEvents as encoder

__all__ = ["encoder", "error", "parse", "whole"]
