"""A provider that bills: a real HTTP server, in a process of its own, that counts what it served.

It bills a whole answer when it begins to work on it, as providers do, also where nobody waits for
it any more; and a stream for its input at once and for its output as it writes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from support import free_port

from models.messages import Usage
from models.prices import Price

#: 1000 tokens in and 500 out are a cent.
PRICE = Price.model_validate({"input": 4, "output": 12})
INPUT, OUTPUT = 1000, 500
CENT = 10_000_000
#: What each request asks: fewer tokens than bytes, as always.
PROMPT = "word " * INPUT


def billed(url: str) -> int:
    """Nano-dollars of all that this provider ever began to serve."""
    with urllib.request.urlopen(f"{url}/billed", timeout=10) as answer:
        return int(json.load(answer)["nano_usd"])


@contextmanager
def running() -> Iterator[str]:
    """The address of a provider, without `/v1`."""
    port = free_port()
    process = subprocess.Popen([sys.executable, __file__, str(port)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


class Provider:
    def __init__(self) -> None:
        self.nano_usd = 0

    def bill(self, used: Usage) -> None:
        self.nano_usd += PRICE.cost(used)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        usage = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT}
        if body["stream"]:
            return await self._stream(request, usage)
        self.bill(Usage(INPUT, OUTPUT))
        await asyncio.sleep(random.uniform(0, 0.02))
        message = {"role": "assistant", "content": "Served."}
        choice = {"message": message, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": usage})

    async def _stream(self, request: web.Request, usage: dict[str, int]) -> web.StreamResponse:
        self.bill(Usage(input=INPUT))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(OUTPUT // 10):
            self.bill(Usage(output=10))
            await response.write(_event({"choices": [{"delta": {"content": "word " * 8}}]}))
            await asyncio.sleep(0.002)
        end = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}
        await response.write(_event(end) + b"data: [DONE]\n\n")
        return response

    async def billed(self, _: web.Request) -> web.Response:
        return web.json_response({"nano_usd": self.nano_usd})


def _event(data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


async def serve(port: int) -> None:
    # Clients that go away in the middle are what this is for.
    logging.disable(logging.CRITICAL)
    provider = Provider()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", provider.chat)
    app.router.add_get("/billed", provider.billed)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
