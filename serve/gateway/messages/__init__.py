"""Anthropic's messages dialect: `/v1/messages` and `/v1/messages/count_tokens`."""

from serve.gateway.messages.answer import error, whole
from serve.gateway.messages.request import parse
from serve.gateway.messages.stream import MessageEvents as encoder

__all__ = ["encoder", "error", "parse", "whole"]
