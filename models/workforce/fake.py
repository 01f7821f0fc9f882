"""A workforce replica without weights: same methods, same wire as the real engine.

`engine: fake` in a catalog. It needs neither download nor GPU, so a user tries a client, a
panel or a scaling rule with it, and a test can kill its replicas.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from models.scaling import FIRST
from models.spec import FakeModelSpec
from models.workforce import notice
from models.workforce.totals import Totals


def smallest(schema: dict[str, Any]) -> Any:
    """The smallest JSON value that satisfies a plain schema, as a constrained engine would."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            known = schema.get("properties", {})
            return {name: smallest(known.get(name, {})) for name in schema.get("required", known)}
        case "array":
            return [smallest(schema.get("items", {}))] * schema.get("minItems", 0)
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return ""


class FakeReplica:
    """Repeats `reply`, word by word. `{question}`, `{system}` and `{pid}` stand for the last
    message, the first instruction, and the replica's process."""

    def __init__(self, name: str, spec: dict[str, Any], place: str = FIRST, *_: Any) -> None:
        self._name = name
        self._spec = FakeModelSpec.model_validate(spec)
        self._running = 0
        notice.watch(self._spec.place(place))
        scaling = self._spec.scaling
        self._totals = Totals(scaling.targets.ttft_s if scaling else math.inf)

    def _text(self, body: dict[str, Any]) -> str:
        wanted = (body.get("response_format") or {}).get("json_schema")
        if wanted:
            return json.dumps(smallest(wanted["schema"]))
        messages = body.get("messages") or [{}]
        instruction = next((m["content"] for m in messages if m.get("role") == "system"), "")
        known = {
            "question": messages[-1].get("content") or "",
            "system": instruction,
            "pid": os.getpid(),
        }
        # In one pass: what a question brings along is not filled in again.
        return re.sub(
            r"\{(question|system|pid)\}", lambda found: str(known[found[1]]), self._spec.reply
        )

    async def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """One chat completion as JSON."""
        words: list[str] = []
        usage: dict[str, Any] = {}
        reason = "stop"
        async for chunk in self.ask_stream(body):
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                words.append(choice["delta"].get("content") or "")
                reason = choice["finish_reason"] or reason
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        if body.get("logprobs") and self._spec.logprob is not None:
            told = [{"token": word, "logprob": self._spec.logprob} for word in words if word]
            choice["logprobs"] = {"content": told}
        return {"choices": [choice], "usage": usage}

    async def ask_stream(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The same as chunks of JSON."""
        body = self._totals.noticed(body)
        async with aclosing(self._totals.streamed(self._chunks(body))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For the scaling rule; Serve asks."""
        return self._totals.as_stats()

    async def _chunks(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        self._running += 1
        try:
            spec = self._spec
            if spec.first_token_s:
                await asyncio.sleep(spec.first_token_s)
            words = self._text(body).split(" ")
            limit = body.get("max_tokens") or len(words)
            for index, word in enumerate(words[:limit]):
                if index and spec.token_s:
                    await asyncio.sleep(spec.token_s)
                text = word if index == 0 else " " + word
                yield {"choices": [{"delta": {"content": text}, "finish_reason": None}]}
            reason = "stop" if limit >= len(words) else "length"
            prompt = await self.count(body)
            yield {
                "choices": [{"delta": {}, "finish_reason": reason}],
                "usage": {
                    "prompt_tokens": prompt,
                    "completion_tokens": min(limit, len(words)),
                },
            }
        finally:
            self._running -= 1

    async def count(self, body: dict[str, Any]) -> int:
        """The tokens of what this chat completion would read: its words."""
        return sum(len(str(m.get("content") or "").split()) for m in body["messages"])

    async def running(self) -> int:
        """Requests at work in this replica now."""
        return self._running
