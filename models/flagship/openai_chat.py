"""OpenAI's chat completions, which most other providers speak too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from models import wire
from models.flagship.schema import can_be_strict
from models.messages import Completion, Request
from models.spec import OpenAIModel

#: OpenAI's own newer models refuse `max_tokens`; all of its models, and few other providers,
#: know this name for it.
OPENAI_HOST = "api.openai.com"


class OpenAIChat:
    """The chat dialect, with the little that only OpenAI itself wants otherwise."""

    path = "/chat/completions"
    key_headers: Mapping[str, str] = {"Authorization": "Bearer "}
    headers: Mapping[str, str] = {}

    def __init__(self, spec: OpenAIModel) -> None:
        self._is_openai = httpx.URL(spec.base_url).host == OPENAI_HOST
        self._thoughts = spec.thoughts and not self._is_openai
        self._logprobs = spec.logprobs

    def payload(self, request: Request, *, model: str, stream: bool) -> dict[str, Any]:
        body = wire.payload(request, model=model, stream=stream)
        if self._is_openai:
            _as_openai_wants(body)
        if not self._logprobs:
            body.pop("logprobs", None)
        if not self._thoughts:
            for message in body["messages"]:
                message.pop("reasoning_content", None)
        return body

    def completion(self, body: Mapping[str, Any], *, model: str) -> Completion:
        return wire.completion(body, model=model)

    def deltas(self, model: str) -> wire.Deltas:
        return wire.Deltas(model)


def _as_openai_wants(body: dict[str, Any]) -> None:
    if "max_tokens" in body:
        body["max_completion_tokens"] = body.pop("max_tokens")
    held = [(tool["function"], "parameters") for tool in body.get("tools", ())]
    if (shape := body.get("response_format", {}).get("json_schema")) is not None:
        held.append((shape, "schema"))
    for each, key in held:
        if each.get("strict") and not can_be_strict(each[key]):
            each["strict"] = False
