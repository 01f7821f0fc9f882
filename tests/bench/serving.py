"""What the frame costs, each figure beside its rival, all in one run.  `make bench`

1. A second `fusion up` to its ready line, and the memory of the whole system.
2. A pass-through to the hosted model beside vLLM's own server: the same weights, the same
   engine arguments, the same load. The rival is measured before and after us, because the
   machine drifts; never at the same time, because two engines would share its cores.
3. What a fusion itself costs on instant fake models: the whole minus its critical path.

It needs about eight minutes of a quiet machine, talks to loopback only, and stops by itself.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import blankless_python, free_port, print_at_once, serving

from cluster import guardian
from models import weights
from models.workforce.vllm import cpu_dtype, cpu_flags

ROOT = Path(__file__).parents[2]
PROMPT = "Write a long story about a river and the people who live beside it."
TOKENS = 128
STREAMS = (1, 8, 16)
FAKES = """
models:
  one: {engine: fake, cpus: 0.1, reply: "ok"}
  two: {engine: fake, cpus: 0.1, reply: "ok"}
  three: {engine: fake, cpus: 0.1, reply: "ok"}
panels: {default: {members: [one, two, three]}}
roles: {judge: one}
"""


def main() -> None:
    print_at_once()
    print("1. Start and memory")
    weights.prepare("package:smollm2")
    with tempfile.TemporaryDirectory() as folder:
        rival = measure_vllm("vLLM's own server, before")
        began = time.monotonic()
        catalog = (ROOT / "fusion.yaml").read_text(encoding="utf-8")
        with serving(catalog, Path(folder)) as server:
            ready = time.monotonic() - began
            print(f"   fusion up to ready          {ready:6.1f} s    (promise: under 90)")
            asyncio.run(burst(server.url, "smollm2", 8))
            rss, pss = memory(guardian.members(server.marker))
            print(f"   resident, whole system      {rss:6.2f} GiB  (promise: under 6)")
            print(f"   proportional, whole system  {pss:6.2f} GiB")
            ours = measure(server.url, "fusion pass-through")
        again = measure_vllm("vLLM's own server, after")
        compare(ours, [rival, again])
        fusion_cost(Path(folder))


def measure_vllm(label: str) -> dict[str, float]:
    with vllm_server() as url:
        return measure(url, label)


@contextmanager
def vllm_server() -> Iterator[str]:
    """The rival: vLLM's own OpenAI server on the same folder of weights."""
    port = free_port()
    arguments = {
        "model": weights.locate("package:smollm2"),
        "served-model-name": "smollm2",
        "dtype": cpu_dtype(cpu_flags()),
        "max-model-len": "8192",
        "host": "127.0.0.1",
        "port": str(port),
    }
    command = ["-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += [f"--{name}={value}" for name, value in arguments.items()]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            [blankless_python(Path(home)), *command],
            env=environment | {"HOME": home},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(f"{url}/health", process)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit("vLLM's own server did not start")
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise SystemExit("vLLM's own server was not ready within 300 s")


def measure(url: str, label: str) -> dict[str, float]:
    """p50 of a one-token answer in ms at one connection, and tokens a second by streams."""
    print(f"2. {label}")
    asyncio.run(burst(url, "smollm2", 4))
    latencies = asyncio.run(one_token(url, 60))
    figures = {"p50_ms": statistics.median(latencies) * 1000}
    print(f"   one token, p50              {figures['p50_ms']:6.1f} ms")
    for streams in STREAMS:
        rounds = [asyncio.run(burst(url, "smollm2", streams)) for _ in range(5)]
        figures[f"tokens_{streams}"] = statistics.median(rounds)
        spread = ", ".join(f"{one:.0f}" for one in rounds)
        median = figures[f"tokens_{streams}"]
        print(f"   {streams:2} streams                 {median:6.1f} tokens/s  ({spread})")
    return figures


async def one_token(url: str, count: int) -> list[float]:
    body = _body("smollm2", max_tokens=1, stream=False)
    latencies = []
    async with aiohttp.ClientSession() as session:
        for _ in range(count):
            began = time.perf_counter()
            async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                await response.read()
                assert response.status == 200
            latencies.append(time.perf_counter() - began)
    return latencies


async def burst(url: str, model: str, streams: int) -> float:
    """Generated tokens a second over this many streams at once."""
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        began = time.perf_counter()
        counts = await asyncio.gather(*(_stream(session, url, model) for _ in range(streams)))
        return sum(counts) / (time.perf_counter() - began)


async def _stream(session: aiohttp.ClientSession, url: str, model: str) -> int:
    body = _body(model, max_tokens=TOKENS, stream=True)
    tokens = 0
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if line.startswith(b"data: {"):
                usage = json.loads(line[6:]).get("usage")
                tokens = usage["completion_tokens"] if usage else tokens
    return tokens


def _body(model: str, *, max_tokens: int, stream: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": max_tokens,
        # Greedy: every answer is as long on both sides, so the rates compare.
        "temperature": 0,
        "stream": stream,
    }
    return body | ({"stream_options": {"include_usage": True}} if stream else {})


def compare(ours: dict[str, float], rivals: list[dict[str, float]]) -> None:
    def rival(key: str) -> float:
        return statistics.mean(one[key] for one in rivals)

    print("   beside the mean of the rival's two runs:")
    print(f"   added p50                   {ours['p50_ms'] - rival('p50_ms'):+6.1f} ms")
    for streams in STREAMS:
        share = ours[f"tokens_{streams}"] / rival(f"tokens_{streams}") * 100
        promise = "  (promise: at least 95)" if streams == max(STREAMS) else ""
        print(f"   throughput at {streams:2}            {share:6.1f} %{promise}")


def memory(pids: list[int]) -> tuple[float, float]:
    """GiB resident (shared pages counted in every process) and proportional (counted once)."""
    sums = {"Rss": 0, "Pss": 0}
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition(":")
            if key in sums:
                sums[key] += int(value.split()[0])
    return sums["Rss"] / 2**20, sums["Pss"] / 2**20


def fusion_cost(folder: Path) -> None:
    print("3. A fusion on instant fake models")
    with serving(FAKES, folder) as server:
        own, whole, plain = [], [], []
        with httpx.Client(base_url=server.url, timeout=30) as client:
            for number in range(220):
                body = {"messages": [{"role": "user", "content": "hello"}]}
                seconds, told = _timed(client, body | {"model": "fusion/default"})
                alone, _ = _timed(client, body | {"model": "one"})
                if number < 20:
                    continue
                stages = told["stages"]
                path = max(s["seconds"] for s in stages if s["role"] == "panelist")
                path += sum(s["seconds"] for s in stages if s["role"] != "panelist")
                own.append((seconds - path) * 1000)
                whole.append(seconds * 1000)
                plain.append(alone * 1000)
    print(f"   whole fusion, p50           {statistics.median(whole):6.1f} ms")
    print(f"   one plain answer, p50       {statistics.median(plain):6.1f} ms   (the rival)")
    print(f"   fusion's own cost, p50      {statistics.median(own):6.1f} ms   (promise: under 10)")
    print(f"   fusion's own cost, p99      {sorted(own)[int(len(own) * 0.99)]:6.1f} ms")


def _timed(client: httpx.Client, body: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    began = time.perf_counter()
    response = client.post("/v1/chat/completions", json=body)
    seconds = time.perf_counter() - began
    told: dict[str, Any] = response.json()["fusion"]
    return seconds, told


if __name__ == "__main__":
    main()
