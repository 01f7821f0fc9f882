"""A flagship model behind a remote API, whatever dialect that speaks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace

import httpx

from models.answerer import Clock, Events, SystemClock
from models.call import Call
from models.flagship.anthropic import Anthropic
from models.flagship.dialect import Dialect
from models.flagship.http import Reply, Transport
from models.flagship.key import read_key
from models.flagship.openai_chat import OpenAIChat
from models.flagship.openai_responses import OpenAIResponses
from models.messages import Completion, Done, Request, Sampling
from models.spec import AnthropicModel, ApiModel, OpenAIModel, OpenAIResponsesModel

DEPTH_HEADER = "x-openrouter-fusion-depth"


def dialect_of(spec: ApiModel) -> Dialect:
    """The dialect that this entry of the catalog names."""
    match spec:
        case OpenAIModel():
            return OpenAIChat(spec)
        case OpenAIResponsesModel():
            return OpenAIResponses(spec)
        case AnthropicModel():
            return Anthropic(spec)
    raise TypeError(f"no dialect for {type(spec).__name__}")


class Flagship:
    """The model `name` of the catalog as an `Answerer`.

    `connections` are those of `models.flagship.client` that the process shares. The key is
    read here, once; raises MissingKey without it. `heed` gets the headers of every answer.
    """

    def __init__(
        self,
        name: str,
        spec: ApiModel,
        connections: httpx.AsyncBaseTransport,
        *,
        heed: Callable[[Mapping[str, str]], None] | None = None,
        clock: Clock | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._name = name
        self._spec = spec
        self._clock = clock or SystemClock()
        self._dialect = dialect_of(spec)
        self._transport = Transport(
            connections,
            name,
            spec.base_url.rstrip("/") + self._dialect.path,
            self._clock,
            key=read_key(name, spec.api_key_env, environ),
            key_headers=self._dialect.key_headers,
            heed=heed,
            mend=(
                f"Check the variable {spec.api_key_env} and the account that it belongs to."
                if spec.api_key_env
                else "Its catalog entry names no api_key_env."
            ),
        )

    def __repr__(self) -> str:
        return f"Flagship({self._name!r})"

    async def complete(self, request: Request, call: Call) -> Completion:
        async with self._post(request, call, stream=False) as reply:
            completion = self._dialect.completion(await reply.json(), model=self._name)
            return _identified(completion, reply)

    async def stream(self, request: Request, call: Call) -> Events:
        deltas = self._dialect.deltas(self._name)
        async with self._post(request, call, stream=True) as reply:
            async with aclosing(reply.events(over=lambda: deltas.ended)) as events:
                async for data in events:
                    for event in deltas.feed(reply.parse(data)):
                        yield event
            done = Done(_identified(deltas.done().completion, reply))
        # After the block: the connection is free again before the reader sees the end.
        yield done

    def _post(
        self, request: Request, call: Call, *, stream: bool
    ) -> AbstractAsyncContextManager[Reply]:
        left = call.remaining_s(self._clock.now())
        model = self._spec.upstream or self._name
        if not self._spec.sampling:
            kept = Sampling(max_tokens=request.sampling.max_tokens, stop=request.sampling.stop)
            request = replace(request, sampling=kept)
        return self._transport.post(
            self._dialect.payload(request, model=model, stream=stream),
            headers={
                "Accept": "text/event-stream" if stream else "application/json",
                DEPTH_HEADER: str(call.fusion_depth),
                **self._dialect.headers,
            },
            seconds=self._spec.timeout_s if left is None else min(left, self._spec.timeout_s),
        )


def _identified(completion: Completion, reply: Reply) -> Completion:
    """With the id that the provider's support asks for: the header's before the body's."""
    return replace(completion, request_id=reply.request_id or completion.request_id)
