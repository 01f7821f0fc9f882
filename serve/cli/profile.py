"""`fusion profile`: measure a running model, and write what `fusion simulate` and scaling read."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import yaml

from cluster import measure
from cluster.errors import ClusterError
from models import certificates
from models.flagship.sse import ServerSentEvents
from serve.cli.common import (
    Json,
    Port,
    Url,
    err,
    fail,
    print_json,
    writable,
)
from serve.cli.reach import credentials, data_of, get, server_url

_ANSWER_S = 300.0
#: What a model writes: its answer, or before that its thoughts, or a call.
_WRITTEN = ("content", "reasoning_content", "tool_calls")
#: Ordinary words, drawn anew for each prompt: an engine answers one that it knows from its cache.
_WORDS = ("river", "stone", "market", "letter", "summer", "engine", "window", "garden", "paper")


def register(app: typer.Typer) -> None:
    app.command()(profile)


def profile(
    model: Annotated[str, typer.Argument(help="A workforce model that runs.", show_default=False)],
    usd_per_hour: Annotated[float, typer.Option(min=1e-6, help="Price of an hour of its node.")],
    startup_s: Annotated[
        float, typer.Option(min=0, help="Seconds from ordering the node to the first answer.")
    ],
    max_batch: Annotated[int, typer.Option(min=1, help="Most requests at once.")] = 32,
    ttft_s: Annotated[
        float, typer.Option(min=1e-6, help="Target: seconds to the first token.")
    ] = 2.0,
    tpot_s: Annotated[
        float, typer.Option(min=1e-6, help="Target: seconds between two tokens.")
    ] = 0.1,
    output: Annotated[
        Path | None,
        typer.Option("--out", "--output", "-o", help="File to write, else printed."),
    ] = None,
    port: Port = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Measure a model's prefill and decode rates on the running cluster, one replica, no load.

    It costs a few hundred short answers and takes some minutes.
    """
    writable(output)
    base = server_url(url, port)
    cards = {card["id"]: card for card in data_of(get(base, "/v1/models"))["data"]}
    if cards.get(model, {}).get("tier") != "workforce":
        fail(f"{model} is no workforce model of {base}: see fusion models", 2)
    try:
        found = asyncio.run(_measured(base, model, max_batch, int(cards[model]["context"])))
    except ClusterError as error:
        fail(str(error))
    except httpx.HTTPError as error:
        fail(f"{base} did not answer: {type(error).__name__} {error}")
    content = measure.profile(found, usd_per_hour, startup_s, ttft_s, tpot_s)
    if as_json:
        print_json(content)
    elif output is None:
        typer.echo(yaml.safe_dump(content, sort_keys=False), nl=False)
    if output is not None:
        output.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        err.print(f"wrote {output}")


async def _measured(base: str, model: str, max_batch: int, context: int) -> measure.Measured:
    limits = httpx.Limits(max_connections=max_batch)
    async with httpx.AsyncClient(
        base_url=base,
        headers=credentials(base),
        timeout=_ANSWER_S,
        limits=limits,
        verify=certificates.needed(base),
    ) as client:

        async def run(words: int, tokens: int) -> measure.Timing:
            return await answer(client, model, words, tokens)

        # A word may be two tokens, and the answer needs its part of the context.
        longest = (context - measure.ANSWER_TOKENS) // 2
        return await measure.measure(run, max_batch, longest, err.print)


async def answer(client: httpx.AsyncClient, model: str, words: int, tokens: int) -> measure.Timing:
    """Time one streamed answer. Raises ClusterError where the server refuses."""
    text = " ".join(random.choices(_WORDS, k=words))  # noqa: S311  a prompt, not a secret
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Go on with this list: {text}"}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began = time.perf_counter()
    first = last = 0.0
    usage: dict[str, Any] = {}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise ClusterError(f"{model} refused: {(await response.aread()).decode()[:300]}")
        events = ServerSentEvents()
        async for piece in response.aiter_bytes():
            for data in events.feed(piece):
                if data == "[DONE]":
                    continue
                chunk = json.loads(data)
                usage = chunk.get("usage") or usage
                if any(_says(one.get("delta") or {}) for one in chunk.get("choices", ())):
                    last = time.perf_counter() - began
                    first = first or last
    generated = int(usage.get("completion_tokens") or 0)
    step_s = (last - first) / (generated - 1) if generated > 1 else 0.0
    return measure.Timing(int(usage.get("prompt_tokens") or words), generated, first, step_s)


def _says(delta: Mapping[str, Any]) -> bool:
    return any(delta.get(part) for part in _WRITTEN)
