"""A flagship model behind an API that speaks OpenAI's chat dialect."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, aclosing

import httpx

from models import wire
from models.answerer import Clock, Events, SystemClock
from models.call import Call
from models.catalog import OpenAIModel
from models.flagship.http import Reply, Transport, read_key
from models.messages import Completion, Request

DEPTH_HEADER = "x-openrouter-fusion-depth"
#: OpenAI's own newer models refuse `max_tokens`; all of its models, and few other providers,
#: know this name for it.
OPENAI_HOST = "api.openai.com"


class OpenAIChat:
    """The model `name` of the catalog as an `Answerer`.

    `client` is the one of `models.flagship.http.new_client` that the process shares. The key
    is read here, once; raises MissingKey without it.
    """

    def __init__(
        self,
        name: str,
        spec: OpenAIModel,
        client: httpx.AsyncClient,
        *,
        clock: Clock | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._name = name
        self._spec = spec
        self._clock = clock or SystemClock()
        url = httpx.URL(spec.base_url.rstrip("/") + "/chat/completions")
        self._is_openai = url.host == OPENAI_HOST
        self._transport = Transport(
            client, name, str(url), self._clock, key=read_key(name, spec.api_key_env, environ)
        )

    def __repr__(self) -> str:
        return f"OpenAIChat({self._name!r})"

    async def complete(self, request: Request, call: Call) -> Completion:
        async with self._post(request, call, stream=False) as reply:
            return wire.completion(await reply.json(), model=self._name)

    async def stream(self, request: Request, call: Call) -> Events:
        deltas = wire.Deltas(self._name)
        async with self._post(request, call, stream=True) as reply:
            async with aclosing(reply.events(last="[DONE]")) as events:
                async for data in events:
                    for event in deltas.feed(reply.parse(data)):
                        yield event
            done = deltas.done()
        # After the block: the connection is free again before the reader sees the end.
        yield done

    def _post(
        self, request: Request, call: Call, *, stream: bool
    ) -> AbstractAsyncContextManager[Reply]:
        left = call.remaining_s(self._clock.now())
        body = wire.payload(request, model=self._spec.upstream or self._name, stream=stream)
        if self._is_openai and "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
        return self._transport.post(
            body,
            headers={
                "Accept": "text/event-stream" if stream else "application/json",
                DEPTH_HEADER: str(call.fusion_depth),
            },
            seconds=self._spec.timeout_s if left is None else min(left, self._spec.timeout_s),
        )
