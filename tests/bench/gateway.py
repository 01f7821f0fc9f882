"""What a gateway adds, beside LiteLLM proxy, against one instant upstream.  `make bench`

Ours runs as a user runs it, with keys, ledger and limits on, and a gateway for each of two cores;
LiteLLM with one worker and a master key, in a virtual environment of its own that is made once in
the cache folder. Both are asked by
the same client on the same machine, one after the other, the upstream alone before and after.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import free_port, fusion, serving

from cluster import guardian

LITELLM = "litellm[proxy]==1.100.5"
CACHE = Path.home() / ".cache" / "fusion" / "bench-litellm"
WARM, SERIAL, SECONDS, WIDE, IDLE = 50, 500, 8.0, 32, 1000
#: A gateway is one process of Python and keeps one core busy.
GATEWAYS = int(os.environ.get("GATEWAYS", min(2, os.cpu_count() or 1)))
KEY = "sk-bench"
CATALOG = """
server: {{max_concurrent: 2048, gateways: {gateways}}}
models:
  instant:
    engine: openai
    base_url: "{url}/v1"
    api_key_env: BENCH_KEY
    max_concurrent: 2048
    requests_per_minute: 10000000
    tokens_per_minute: 1000000000
    price: {{input: 1, output: 2}}
    timeout_s: 600
roles: {{judge: instant}}
limits: {{project:default: {{day: 100000}}}}
"""
RIVAL = """
model_list:
  - model_name: instant
    litellm_params: {{model: openai/instant, api_base: "{url}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
"""


def main() -> None:
    with instant_upstream() as upstream, tempfile.TemporaryDirectory() as folder:
        alone = measure("upstream alone, before", upstream, None)
        with ours(upstream, Path(folder)) as (url, key, pids):
            own = measure(f"fusion, {GATEWAYS} gateways", url, key)
            grown = asyncio.run(idle_streams(url, key, pids))
        print(f"{IDLE} idle streams                {grown:8.0f} MB    (promise: under 300)")
        with litellm(upstream, Path(folder)) as url:
            rival = measure("LiteLLM proxy", url, KEY)
        again = measure("upstream alone, after", upstream, None)
    base = {name: statistics.mean((alone[name], again[name])) for name in alone}
    print("\nadded to the mean of the upstream's two runs")
    for label, promise in (("p50", 2.5), ("p99", 8.0), ("first", 3.0)):
        added, theirs = own[label] - base[label], rival[label] - base[label]
        print(f"{label:8} ours {added:8.2f} ms (promise {promise})   LiteLLM {theirs:8.2f} ms")
    ratio = own["rate"] / rival["rate"]
    print(f"rate     ours {own['rate']:8.0f} /s (promise 700)   LiteLLM {rival['rate']:8.0f} /s")
    print(f"rate     {ratio:8.1f} times LiteLLM's (promise 5)")


def measure(label: str, url: str, key: str | None) -> dict[str, float]:
    return asyncio.run(_measure(label, url, key))


async def _measure(label: str, url: str, key: str | None) -> dict[str, float]:
    async with _session(url, key) as session:
        await _serial(session, WARM)
        times = sorted(await _serial(session, SERIAL))
        first = [await _first(session) for _ in range(WARM)]
        rate = await _rate(session)
    found = {
        "p50": statistics.median(times) * 1000,
        "p99": times[int(len(times) * 0.99)] * 1000,
        "first": statistics.median(first) * 1000,
        "rate": rate,
    }
    print(
        f"{label:24} p50 {found['p50']:6.2f} ms   p99 {found['p99']:6.2f} ms"
        f"   first token {found['first']:6.2f} ms   {WIDE} at once {rate:6.0f} /s"
    )
    return found


@asynccontextmanager
async def _session(url: str, key: str | None) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(
        url, headers=headers, connector=connector, timeout=timeout
    ) as session:
        yield session


def _body(**more: Any) -> dict[str, Any]:
    return {"model": "instant", "messages": [{"role": "user", "content": "hello"}], **more}


async def _serial(session: aiohttp.ClientSession, count: int) -> list[float]:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        async with session.post("/v1/chat/completions", json=_body()) as response:
            assert response.status == 200, await response.text()
            await response.read()
        times.append(time.perf_counter() - began)
    return times


async def _first(session: aiohttp.ClientSession) -> float:
    """Seconds to the first token of a stream."""
    began = time.perf_counter()
    async with session.post("/v1/chat/completions", json=_body(stream=True)) as response:
        async for line in response.content:
            if b'"content":"' in line.replace(b'": "', b'":"'):
                return time.perf_counter() - began
    raise AssertionError("no token came")


async def _rate(session: aiohttp.ClientSession) -> float:
    """Answers a second at `WIDE` connections."""
    ends = time.perf_counter() + SECONDS

    async def one() -> int:
        answered = 0
        while time.perf_counter() < ends:
            answered += len(await _serial(session, 1))
        return answered

    return sum(await asyncio.gather(*(one() for _ in range(WIDE)))) / SECONDS


async def idle_streams(url: str, key: str, pids: Any) -> float:
    """MB that the cluster grows by while so many streams have begun and say nothing."""
    before = _proportional(pids())
    async with _session(url, key) as session:

        async def begin() -> aiohttp.ClientResponse:
            body = _body(stream=True, stop=["never"])
            response = await session.post("/v1/chat/completions", json=body)
            await response.content.readline()
            return response

        opened = []
        for _ in range(IDLE // 50):
            opened += await asyncio.gather(*(begin() for _ in range(50)))
        await asyncio.sleep(2)
        grown = _proportional(pids()) - before
        for response in opened:
            response.close()
    return grown


def _proportional(pids: list[int]) -> float:
    """MB of these processes, shared pages counted once."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1000


@contextmanager
def ours(upstream: str, folder: Path) -> Iterator[tuple[str, str, Any]]:
    os.environ["BENCH_KEY"] = "none"
    with serving(CATALOG.format(url=upstream, gateways=GATEWAYS), folder) as server:
        where = ("--catalog", str(folder / "catalog.yaml"), "--port", str(server.port))
        command = fusion("keys", "create", "--name", "bench", *where, "--json")
        # The store of this server, not the user's.
        store = {**os.environ, "XDG_DATA_HOME": str(folder / "data")}
        made = subprocess.run(
            command, cwd=folder, env=store, capture_output=True, text=True, check=True
        )
        key: str = json.loads(made.stdout)["key"]
        refused = httpx.post(f"{server.url}/v1/chat/completions", json=_body(), timeout=10)
        assert refused.status_code == 401, "the server is open, so keys would cost nothing"
        yield server.url, key, lambda: guardian.members(server.marker)


@contextmanager
def litellm(upstream: str, folder: Path) -> Iterator[str]:
    port, config = free_port(), folder / "litellm.yaml"
    config.write_text(RIVAL.format(url=upstream, key=KEY))
    command = [str(_rival()), "--config", str(config), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--num_workers", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=folder, env=_plain(), **quiet)  # type: ignore[call-overload]
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/health/liveliness", process)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _rival() -> Path:
    """LiteLLM's command, installed by itself: its needs are not ours."""
    command = CACHE / "bin" / "litellm"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", str(CACHE)], check=True)
        subprocess.run([str(CACHE / "bin" / "pip"), "install", "-q", LITELLM], check=True)
    return command


def _plain() -> dict[str, str]:
    return {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}


@contextmanager
def instant_upstream() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([sys.executable, __file__, "upstream", str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/health", process)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended by itself")
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise SystemExit(f"{url} did not answer within 120 s")


def upstream(port: int) -> None:
    """A provider that answers at once. A stream with a `stop` says one word and then nothing."""
    from aiohttp import web

    usage = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}
    common = {"id": "chatcmpl-1", "created": 1, "model": "instant"}
    said = {"index": 0, "message": {"role": "assistant", "content": "hello"}}
    whole = {"object": "chat.completion", "choices": [said | {"finish_reason": "stop"}]}
    answer = json.dumps(common | whole | {"usage": usage}).encode()

    def chunk(delta: dict[str, Any], finish: str | None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        body = common | {"object": "chat.completion.chunk", "choices": [choice]} | more
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not body.get("stream"):
            return web.Response(body=answer, content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(chunk({"role": "assistant", "content": "hello"}, None))
        if body.get("stop"):
            await asyncio.sleep(600)
        await response.write(chunk({}, "stop", usage=usage) + b"data: [DONE]\n\n")
        return response

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    application = web.Application()
    application.add_routes([web.post("/v1/chat/completions", chat), web.get("/health", health)])
    quiet: dict[str, Any] = {"print": None, "access_log": None, "shutdown_timeout": 1.0}
    web.run_app(application, host="127.0.0.1", port=port, **quiet)


if __name__ == "__main__":
    if sys.argv[1:2] == ["upstream"]:
        upstream(int(sys.argv[2]))
    else:
        main()
