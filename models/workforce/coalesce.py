"""Joins the chunks of a stream that come faster than a reader needs them. Pure asyncio.

Each message from a replica to a gateway costs about a millisecond on both sides, and an engine
makes hundreds of tokens a second. So the first chunk goes out at once and later ones at most
once an interval, with everything in them that has come meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

Chunk = dict[str, Any]
#: The fields of a delta that are written piece by piece: what the model says and what it thinks.
_TEXTS = ("content", "reasoning", "reasoning_content")


async def coalesce(
    chunks: AsyncGenerator[Chunk, None], interval_s: Callable[[], float]
) -> AsyncGenerator[Chunk, None]:
    """The same stream in fewer, larger chunks of OpenAI's chat form.

    `interval_s` is asked after each chunk for the seconds until the next.
    Closing the result, or its failure, closes `chunks` before it returns.
    """
    pending: list[Chunk] = []
    news = asyncio.Event()

    async def read() -> None:
        try:
            async with aclosing(chunks) as source:
                async for chunk in source:
                    pending.append(chunk)
                    news.set()
        finally:
            news.set()

    loop = asyncio.get_running_loop()
    reader = asyncio.create_task(read())
    next_at = 0.0
    try:
        while not (reader.done() and not pending):
            await news.wait()
            if not reader.done() and (wait := next_at - loop.time()) > 0:
                await asyncio.sleep(wait)
            news.clear()
            if pending:
                ready, pending[:] = pending[:], []
                # An error ends its stream, and what came before it must still be read.
                failed = [chunk for chunk in ready if chunk.get("error")]
                if said := [chunk for chunk in ready if not chunk.get("error")]:
                    yield merge(said)
                for chunk in failed:
                    yield chunk
                next_at = loop.time() + interval_s()
            if reader.done():
                news.set()
        await reader
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


def merge(chunks: list[Chunk]) -> Chunk:
    """One chunk that says what these say in order. Each has at most one choice."""
    if len(chunks) == 1:
        return chunks[0]
    said: dict[str, list[str]] = {}
    calls: list[Any] = []
    merged: Chunk = {"choices": []}
    finish = stopped_by = None
    for chunk in chunks:
        if chunk.get("usage"):
            merged["usage"] = chunk["usage"]
        for choice in chunk.get("choices") or ():
            piece = choice.get("delta") or {}
            for kind in _TEXTS:
                if piece.get(kind):
                    said.setdefault(kind, []).append(piece[kind])
            calls.extend(piece.get("tool_calls") or ())
            finish = choice.get("finish_reason") or finish
            stopped_by = choice.get("stop_reason") or stopped_by
    delta: dict[str, Any] = {kind: "".join(pieces) for kind, pieces in said.items()}
    if calls:
        delta["tool_calls"] = calls
    last = {"index": 0, "delta": delta, "finish_reason": finish}
    merged["choices"] = [last if stopped_by is None else last | {"stop_reason": stopped_by}]
    return merged
