"""What a fusion adds to its models, measured on fake ones.  `make bench`

1. Its own cost: 16 fusions at the same time, each of 3 panelists that answer at once. Own is the
   whole minus the critical path of its calls (the slowest panelist, the judge, the writer). On
   uvloop, which Ray installs in its workers, and so in every gateway.
2. A slow panelist: two of 1 s and one of 10 s, which is past the grace.
3. The first synthesised token: from the writer's own first token to a client of the HTTP server.

With `--engine` instead, on the real engine (three minutes):

4. Self-fusion and vLLM's prefix cache: the share of the later panelists' prompt tokens that
   were in it.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import uvloop

# In the place of this folder, whose `router.py` would hide the package.
sys.path[0] = str(Path(__file__).parents[1])

from doorway import doorway
from support import print_at_once, serving

from models.call import Call
from models.catalog import Catalog
from models.fake import FakeModel
from models.messages import Completion, Request, TextDelta, assistant, user
from models.prices import Price
from serve.fusion.contract import Analysis
from serve.fusion.judge import ModelJudge
from serve.house import settle
from serve.money.charge import Charge, Tariff
from serve.money.fake import FakeTill
from serve.pipeline import Models, Pipeline

PARALLEL, EACH = 16, 100
GRACE_S, JUDGE_S, WRITER_S = 1.0, 0.3, 0.3
PRICE = Price.model_validate({"input": 1, "output": 1})
EMPTY = assistant(json.dumps({key: [] for key in Analysis.model_fields}))
OK = assistant("ok")
CATALOG = Catalog.model_validate(
    {
        "models": {
            name: {"engine": "fake", "price": {"input": 1, "output": 1}}
            for name in ("one", "two", "three", "judge", "writer")
        },
        "panels": {
            "default": {
                "members": ["one", "two", "three"],
                "synthesis": "writer",
                "quorum": 2,
                "grace_s": GRACE_S,
            }
        },
        "roles": {"judge": "judge"},
    }
)
ASKED = Request("fusion/default", (user("hello"),))
ENGINE_CATALOG = """
models:
  smollm2: {engine: vllm, source: "package:smollm2", accelerator: cpu, cpus: 1, context: 8192}
panels:
  default: {members: [{model: smollm2, max_tokens: 48}], self: 3, analysis_tokens: 256}
roles: {judge: smollm2}
"""


class Writer(FakeModel):
    """Notes when it gave its first token."""

    first_at = 0.0

    async def stream(self, request: Request, call: Call) -> Any:
        async for event in super().stream(request, call):
            if isinstance(event, TextDelta) and not self.first_at:
                self.first_at = time.perf_counter()
            yield event


def pipeline(**changed: FakeModel) -> Pipeline:
    """Every model answers at once, and the judge finds nothing, unless it is changed."""
    fakes = {name: FakeModel(name, OK) for name in CATALOG.models}
    fakes["judge"] = FakeModel("judge", EMPTY)
    till = FakeTill()
    paid = {
        name: Charge(fake, Tariff(name, "workforce", PRICE), till)
        for name, fake in (fakes | changed).items()
    }
    models = Models(CATALOG, paid)

    class NoRouter:
        async def decide(self, prompt: str, candidates: Any) -> Any:
            raise AssertionError("nobody asks for it")

    return Pipeline(CATALOG, models, ModelJudge(models), NoRouter())


def main() -> None:
    print_at_once()
    if "--engine" in sys.argv:
        prefix_cache()
        return
    own_cost()
    uvloop.run(slow_panelist())
    first_token()


def own_cost() -> None:
    print(f"1. Own cost, {PARALLEL} fusions at a time, on uvloop as in a gateway")
    one = uvloop.run(own(PARALLEL))
    # As many processes as the cluster has with two gateways, each on a core of its own.
    with multiprocessing.get_context("spawn").Pool(2) as gateways:
        for _ in range(2):  # the first time they start
            halves = gateways.map(own_of, [PARALLEL // 2] * 2, chunksize=1)
    for label, found in (("one gateway", one), ("two gateways", [*chain.from_iterable(halves)])):
        print(f"   {label}, p50           {statistics.median(found):9.1f} ms   (promise: under 5)")
        print(f"   {label}, p99           {quantile(found, 0.99):9.1f} ms   (promise: under 10)")
    for parallel in (1, 4):
        found = uvloop.run(own(parallel))
        print(f"   {parallel} at a time, p50           {statistics.median(found):9.1f} ms")


def own_of(parallel: int) -> list[float]:
    return uvloop.run(own(parallel))


async def own(parallel: int) -> list[float]:
    """What each of so many fusions at a time took beside its models, in milliseconds."""
    whole = pipeline()
    found: list[tuple[float, Completion]] = []

    async def worker(count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            answer = await whole.complete(ASKED, Call(deadline=time.time() + 60))
            found.append((time.perf_counter() - began, answer))

    await asyncio.gather(*(worker(5) for _ in range(parallel)))
    settle()  # as every process that serves does after its start
    found.clear()
    busy = time.process_time()
    await asyncio.gather(*(worker(EACH) for _ in range(parallel)))
    if parallel == PARALLEL:
        each = (time.process_time() - busy) / (parallel * EACH) * 1000
        print(f"   of one core                  {each:9.2f} ms a fusion")
    return [(seconds - critical_path(answer)) * 1000 for seconds, answer in found]


def critical_path(answer: Completion) -> float:
    stages = answer.stages
    panel = max(stage.seconds for stage in stages if stage.role == "panelist")
    return panel + sum(stage.seconds for stage in stages if stage.role != "panelist")


async def slow_panelist() -> None:
    print("2. Two panelists of 1 s, one of 10 s")
    whole = pipeline(
        one=FakeModel("one", "ok", first_token_s=1.0),
        two=FakeModel("two", "ok", first_token_s=1.0),
        three=FakeModel("three", "ok", first_token_s=10.0),
        judge=FakeModel("judge", EMPTY, first_token_s=JUDGE_S),
        writer=FakeModel("writer", "ok", first_token_s=WRITER_S),
    )
    began = time.perf_counter()
    answer = await whole.complete(ASKED, Call(deadline=time.time() + 60))
    seconds = time.perf_counter() - began
    assert answer.extension["left_out"] == [{"model": "three", "why": "late"}]
    needed = 1.0 + GRACE_S + JUDGE_S + WRITER_S
    print(f"   whole                       {seconds:6.3f} s")
    print(f"   panel, grace, judge, writer {needed:6.3f} s   ({seconds / needed:.3f} times it)")
    print("   promise: at most 1.05 times it")


def first_token() -> None:
    print("3. First synthesised token, from the writer to an HTTP client")
    late: list[float] = []
    body = {"model": "fusion/default", "stream": True}
    body["messages"] = [{"role": "user", "content": "hello"}]
    with doorway() as door, httpx.Client(base_url=door.url, timeout=30) as client:
        for number in range(110):
            writer = Writer("writer", "It depends on what you mean.", first_token_s=0.05)
            writer.token_s = 0.005
            door.models["fusion/default"] = pipeline(writer=writer)
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                for line in response.iter_lines():
                    if '"content":"It' in line:
                        break
            if number >= 10:
                late.append((time.perf_counter() - writer.first_at) * 1000)
    print(f"   p50                         {statistics.median(late):6.1f} ms")
    print(f"   p99                         {quantile(late, 0.99):6.1f} ms   (promise: under 20)")


def prefix_cache() -> None:
    print("4. Self-fusion and the engine's prefix cache")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(ENGINE_CATALOG, Path(folder)) as server,
        httpx.Client(base_url=server.url, timeout=120) as client,
    ):
        for words in (60, 300, 1200):
            measure_prefix(client, words)


def measure_prefix(client: httpx.Client, words: int) -> None:
    shares = []
    for number in range(5):
        # Each question begins otherwise, so that nothing is left of the one before.
        text = f"Case {number} of {words}. " + "The river carries the boat past the old mill. " * (
            words // 9
        )
        body = {"model": "fusion/default", "fusion": {"expose_panel": True}, "max_tokens": 48}
        body["messages"] = [{"role": "user", "content": text + "What is it about?"}]
        told = client.post("/v1/chat/completions", json=body).json()["fusion"]
        panel = [stage for stage in told["stages"] if stage["role"] == "panelist"]
        # The first to be computed is the one with the least from the cache.
        later = sorted(panel, key=lambda stage: stage["cached_tokens"])[1:]
        read = sum(stage["input_tokens"] for stage in later)
        shares.append(sum(stage["cached_tokens"] for stage in later) / read)
    tokens = panel[0]["input_tokens"]
    print(
        f"   {tokens:4} prompt tokens          {statistics.median(shares) * 100:6.1f} %"
        "  of the later panelists' from the cache   (promise: at least 60)"
    )


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


if __name__ == "__main__":
    main()
