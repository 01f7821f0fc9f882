"""The replica's dealings with the engine, on an engine of paper."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from models.errors import BadRequest, Unavailable, UpstreamError
from models.spec import VllmModel
from models.workforce.totals import Totals
from models.workforce.vllm import (
    TELLS_USAGE,
    VllmReplica,
    bundles,
    cores,
    cpu_dtype,
    cpu_flags,
    environment,
    executor_of,
    root_cause,
)

WINDOW = 100


class Paper:
    """An engine whose prompts are as long as they say, with vLLM's refusal."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[dict[str, Any]] = []

    async def chat(self, request: dict[str, Any]) -> AsyncIterator[Any]:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return self._stream(request)

    async def tokenize(self, request: dict[str, Any]) -> AsyncIterator[Any]:
        self.asked.append(request)
        return self._counts(request)

    async def _counts(self, request: dict[str, Any]) -> AsyncIterator[Any]:
        if not request["messages"]:
            yield SimpleNamespace(error=SimpleNamespace(message="nothing to count"))
        yield SimpleNamespace(count=len(request["messages"]))

    async def _stream(self, request: dict[str, Any]) -> AsyncIterator[Any]:
        asked = request["prompt"] + request.get("max_tokens", 1)
        if asked > WINDOW:
            yield _Dumped({"error": {"message": "maximum context length is 100", "code": 400}})
            return
        yield ['data: {"choices": [{"delta": {"content": "hi"}}]}\n\n']
        yield ["data: [DONE]\n\n"]


class _Dumped:
    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def model_dump(self, mode: str) -> dict[str, Any]:
        return self._data


def replica(engine: Paper) -> VllmReplica:
    made = VllmReplica.__new__(VllmReplica)
    made._server = engine
    made._request = lambda **body: body
    made._totals = Totals(2.0)
    made._counted = lambda **body: body
    return made


async def read(body: dict[str, Any], engine: Paper) -> list[dict[str, Any]]:
    return [chunk async for chunk in replica(engine).ask_stream(body)]


async def test_a_limit_that_does_not_fit_behind_the_prompt_is_left_to_the_engine() -> None:
    engine = Paper()
    [chunk] = await read({"prompt": 90, "max_tokens": 50}, engine)
    assert chunk["choices"][0]["delta"]["content"] == "hi"
    told = {"stream_options": TELLS_USAGE}
    assert engine.asked == [{"prompt": 90, "max_tokens": 50, **told}, {"prompt": 90, **told}]


async def test_a_limit_that_fits_is_asked_for_once() -> None:
    engine = Paper()
    await read({"prompt": 10, "max_tokens": 50}, engine)
    assert len(engine.asked) == 1


async def test_a_prompt_that_does_not_fit_is_refused() -> None:
    [chunk] = await read({"prompt": 200, "max_tokens": 5}, Paper())
    assert "maximum context length" in chunk["error"]["message"]


async def test_an_engines_exception_does_not_travel() -> None:
    class EngineDeadError(Exception): ...

    # Only of a dead engine is it known that nothing was done that a repetition would do twice.
    with pytest.raises(Unavailable, match="The engine failed: EngineDeadError: boom"):
        await read({"prompt": 1}, Paper(EngineDeadError("boom")))
    with pytest.raises(UpstreamError, match="The engine failed: TypeError: boom"):
        await read({"prompt": 1}, Paper(TypeError("boom")))


async def test_a_request_that_the_engine_cannot_read_is_the_callers() -> None:
    made = replica(Paper())

    def refuse(**_: Any) -> Any:
        raise ValueError("no such field")

    made._request = refuse
    with pytest.raises(BadRequest, match="no such field"):
        await made.ask({"prompt": 1})


def test_a_replica_reserves_a_bundle_for_each_worker() -> None:
    def spec(**more: Any) -> VllmModel:
        return VllmModel.model_validate({"engine": "vllm", "source": "x", **more})

    assert bundles(spec(accelerator="cpu", cpus=2)) == [{"CPU": 2}]
    # Ray refuses a bundle of nothing.
    assert bundles(spec(accelerator="cpu", cpus=0)) == [{"CPU": 0.001}]
    assert bundles(spec()) == [{"GPU": 1, "CPU": 1}]
    sharded = spec(accelerator="L4", engine_args={"tensor_parallel_size": 2})
    worker = {"GPU": 1, "accelerator_type:L4": 0.001}
    assert bundles(sharded) == [{**worker, "CPU": 1}, worker]


def test_the_root_cause_is_the_first_error_of_the_engines_process() -> None:
    log = """INFO loading
(EngineCore pid=7) ERROR 11-22 [core.py:1] ValueError: No room for the KV cache. Raise it.
(EngineCore pid=7) ERROR 11-22 [core.py:2] RuntimeError: worker died
RuntimeError: Engine core initialization failed. See root cause above. Failed: {}
"""
    assert root_cause(log) == "ValueError: No room for the KV cache. Raise it."
    assert root_cause("RuntimeError: See root cause above.") is None
    assert root_cause("") is None


def test_only_local_weights_are_offline() -> None:
    cpu = VllmModel.model_validate(
        {"engine": "vllm", "source": "package:smollm2", "accelerator": "cpu", "env": {"A": "b"}}
    )
    assert environment(cpu) == {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "A": "b"}
    assert environment(VllmModel.model_validate({"engine": "vllm", "source": "Org/Name"})) == {}


async def test_the_engine_counts_what_it_would_read_and_nothing_else() -> None:
    engine = Paper()
    body = {"model": "m", "messages": [{}, {}], "max_tokens": 5, "stream": False}
    assert await replica(engine).count(body) == 2
    assert engine.asked == [{"model": "m", "messages": [{}, {}]}]
    with pytest.raises(BadRequest, match="nothing to count"):
        await replica(engine).count({"messages": []})


def test_a_cpu_that_would_imitate_bfloat16_gets_float32() -> None:
    assert cpu_dtype({"avx2", "f16c"}) == "float32"
    assert cpu_dtype({"avx2", "avx512f"}) == "bfloat16"
    assert cpu_flags()


def test_on_two_cores_the_engine_is_one_process() -> None:
    assert cores() >= 1
    cpu = VllmModel.model_validate(
        {"engine": "vllm", "source": "package:smollm2", "accelerator": "cpu"}
    )
    assert [executor_of(cpu, n) for n in (1, 2, 3, 64)] == ["uni", "uni", None, None]
    gpu = VllmModel.model_validate({"engine": "vllm", "source": "Org/Name"})
    assert executor_of(gpu, 2) is None
    parted = cpu.model_copy(update={"engine_args": {"tensor_parallel_size": 2}})
    assert executor_of(parted, 2) is None
