"""A workforce replica on the real engine: `ray.serve.llm` with vLLM behind it.

Importing vLLM takes twenty seconds of a core. So it happens once, inside the replica: neither
the gateway nor the application's builder loads it, and a head node need not have it installed.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from models import weights
from models.errors import BadRequest, FusionError, Unavailable, UpstreamError
from models.scaling import FIRST
from models.spec import VllmModel
from models.workforce import notice
from models.workforce.coalesce import coalesce
from models.workforce.totals import Totals

log = logging.getLogger(__name__)

#: A message from a replica to a gateway costs both about a millisecond of a core, which on a
#: machine that computes on its cores comes out of the engine. So all streams of a replica
#: together send about this many a second,
MESSAGES_A_SECOND = 100
#: and each waits at most this long between two chunks: faster than anybody reads.
LONGEST_INTERVAL_S = 0.2

#: The largest that vLLM itself ever takes for one engine; more than it may read in one step fails.
MOST_SEQUENCES = 1024
#: The engine's start-up on CPU needs these; a catalog's `env` may overrule each.
CPU_ENV = {"VLLM_CPU_KVCACHE_SPACE": "1"}
#: A stream's usage comes with each chunk: one that is cut off counts as the work that it was.
TELLS_USAGE = {"include_usage": True, "continuous_usage_stats": True}


class VllmReplica:
    """Ray's LLM server behind methods that speak plain JSON and our errors.

    So the gateway needs neither vLLM's classes nor its exceptions.
    """

    _streams = 0

    # Serve awaits a coroutine constructor; the type system does not know such a thing.
    async def __init__(self, name: str, spec: dict[str, Any], place: str = FIRST, *_: Any) -> None:  # type: ignore[misc]
        from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
        from ray.serve.llm.deployment import LLMServer
        from ray.serve.llm.openai_api_models import ChatCompletionRequest
        from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest

        class Server(LLMServer):  # type: ignore[misc]  # Ray is untyped
            """Without the actor that gathers usage statistics: it takes 400 MB and ten seconds of
            a core to report nothing, since those are switched off."""

            async def _start_engine(self) -> None:
                await self.engine.start()
                # Ray 2.60 looks for it under the name that it had before vLLM 0.29.
                state = self.engine._app_state
                self.engine._oai_serving_tokenization = state.serving_tokenization

        checked = VllmModel.model_validate(spec)
        notice.watch(checked.place(place))
        executor = executor_of(checked, cores())

        class Engine(VLLMEngine):  # type: ignore[misc]  # Ray is untyped
            """Ray sets the executor itself and has no setting for it."""

            def _prepare_engine_config(self, context: Any) -> Any:
                arguments, frontend, config = super()._prepare_engine_config(context)
                if executor is not None:
                    config.parallel_config.distributed_executor_backend = executor
                return arguments, frontend, config

        self._request = ChatCompletionRequest
        self._counted = TokenizeChatRequest
        self._totals = Totals(checked.scaling.targets.ttft_s if checked.scaling else math.inf)
        self._server = Server.sync_init(llm_config(name, checked), engine_cls=Engine)
        try:
            await self._server.start()
        except Exception as error:
            # The engine's own processes fail with "see root cause above": above is a log file.
            raise RuntimeError(root_cause(_own_log()) or str(error)) from None

    async def check_health(self) -> None:
        """Raises when the engine is dead; Serve then replaces this replica."""
        await self._server.check_health()

    async def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """One chat completion as JSON. An engine's error comes as `{"error": ...}`."""
        async for answer in self._answers(self._totals.noticed(body)):
            self._totals.answered(answer)
            return answer
        raise Unavailable("The engine returned nothing.")

    async def ask_stream(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The same as chunks of JSON, each with what came since the one before."""
        self._streams += 1
        try:
            async with aclosing(self._chunks(body)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self._streams -= 1

    def _chunks(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        answers = self._answers(self._totals.noticed(body | {"stream_options": TELLS_USAGE}))
        return coalesce(self._totals.streamed(answers), self._interval_s)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For the scaling rule; Serve asks."""
        return self._totals.as_stats()

    async def count(self, body: dict[str, Any]) -> int:
        """The tokens of what this chat completion would read, by the model's own tokenizer."""
        asked = {key: body[key] for key in ("model", "messages", "tools") if key in body}
        try:
            request = self._counted(**asked)
        except ValueError as error:
            raise BadRequest(f"The engine does not accept this request: {error}") from None
        async for answer in await self._server.tokenize(request):
            if (refusal := getattr(answer, "error", None)) is not None:
                raise BadRequest(f"The engine cannot count this request: {refusal.message}")
            return int(answer.count)
        raise Unavailable("The engine returned nothing.")

    def _interval_s(self) -> float:
        return min(LONGEST_INTERVAL_S, self._streams / MESSAGES_A_SECOND)

    async def _answers(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(self._engine(body)) as answers:
            async for answer in answers:
                if not does_not_fit(answer) or "max_tokens" not in body:
                    yield answer
                    continue
                # Prompt and limit together pass the window, so less is left than the limit:
                # without one, the engine takes what is left. A prompt that does not fit by
                # itself is refused again.
                unlimited = {key: value for key, value in body.items() if key != "max_tokens"}
                async with aclosing(self._engine(unlimited)) as shorter:
                    async for again in shorter:
                        yield again

    async def _engine(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        try:
            request = self._request(**body)
        except ValueError as error:
            raise BadRequest(f"The engine does not accept this request: {error}") from None
        try:
            stream = await self._server.chat(request)
            async for item in stream:
                for answer in item if isinstance(item, list) else (item,):
                    if isinstance(answer, str):
                        data = answer.removeprefix("data: ").strip()
                        if data and data != "[DONE]":
                            yield json.loads(data)
                    else:
                        yield refused(answer.model_dump(mode="json"))
        except FusionError:
            raise
        except Exception as error:
            # Whatever the engine throws, its class must not travel: the gateway would have to
            # import vLLM to read it. The replica's health check decides whether to restart.
            log.exception("the engine failed on a request")
            kind = Unavailable if type(error).__name__ == "EngineDeadError" else UpstreamError
            raise kind(f"The engine failed: {type(error).__name__}: {error}") from None


def root_cause(log: str) -> str | None:
    """The error of an engine's process that made its start fail, as its log tells it.

    The first one that is not about another: later lines report how the failure spread.
    """
    errors = re.findall(r" ERROR .*?\] ((?:\w+\.)*\w+(?:Error|Exception): .+)$", log, re.M)
    return next((one for one in errors if "root cause" not in one), None)


def _own_log() -> str:
    """What this process and the engine's, which write to the same files, said last."""
    tails = []
    for descriptor in (1, 2):
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            continue
        with suppress(OSError), Path(f"/proc/self/fd/{descriptor}").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 100_000))
            tails.append(file.read().decode(errors="replace"))
    return "\n".join(tails)


def refused(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer as it is. Raises Unavailable if it is an error of the engine's own: it costs
    nobody anything twice to ask another replica."""
    error = answer.get("error") or {}
    if isinstance(error.get("code"), int) and error["code"] >= 500:
        raise Unavailable(f"The engine failed: {error.get('message')}")
    return answer


def does_not_fit(answer: dict[str, Any]) -> bool:
    """Whether the engine refused a request because prompt and limit pass its window."""
    message = (answer.get("error") or {}).get("message") or ""
    return "maximum context length" in message


def llm_config(name: str, spec: VllmModel) -> Any:
    """Ray's own description of this model. Runs in the replica."""
    from ray.llm._internal.common.callbacks.base import CallbackBase
    from ray.serve.llm import LLMConfig

    class NoDownload(CallbackBase):  # type: ignore[misc]  # Ray is untyped
        """Weights that lie here need no task on every node that looks for them at a hub."""

        async def on_before_node_init(self) -> None:
            self.ctx.run_init_node = False

    cpu = spec.accelerator == "cpu"
    engine_args = {
        "max_model_len": spec.context,
        # What Serve lets in is computed together; vLLM's own bound for servers is lower.
        "max_num_seqs": min(spec.max_ongoing, MOST_SEQUENCES),
        # A small model under a schema would fill its tokens with blanks between the marks.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        # So that an answer says how much of its prompt the prefix cache had.
        "enable_prompt_tokens_details": True,
        **spec.engine_args,
    }
    if cpu:
        engine_args = {
            "dtype": cpu_dtype(cpu_flags()),
            "enforce_eager": True,
            # The smallest that its kernels are made for. Prompts are cached in whole blocks, and
            # a block of 128, vLLM's own choice here, is longer than many a prompt.
            "block_size": 32,
            **engine_args,
        }
    settings: dict[str, Any] = {
        "model_loading_config": {"model_id": name, "model_source": weights.locate(spec.source)},
        "accelerator_config": {"kind": "cpu" if cpu else "gpu"},
        "engine_kwargs": engine_args,
        # Our own coalescing joins chunks; Ray's would add a fixed wait before the first token.
        "experimental_configs": {"stream_batching_interval_ms": 0},
    }
    if spec.accelerator not in ("cpu", "gpu"):
        settings["accelerator_type"] = spec.accelerator
    if weights.is_local(spec.source):
        settings["callback_config"] = {"callback_class": NoDownload}
    return LLMConfig(**settings)


def cpu_dtype(flags: set[str]) -> str:
    """`bfloat16`, or `float32` on a CPU that has to imitate it, where a prompt is read five times
    as fast so. `flags` are those of /proc/cpuinfo."""
    return "bfloat16" if flags & {"avx512f", "amx_bf16", "bf16"} else "float32"


def cpu_flags() -> set[str]:
    """What this machine's CPU can do, as its system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return set()
    return {
        flag
        for line in lines
        if line.startswith(("flags", "Features"))
        for flag in line.partition(":")[2].split()
    }


def executor_of(spec: VllmModel, cores: int) -> str | None:
    """`uni`, scheduler and worker in one process, or None for the engine's own choice.

    On a CPU the engine's scheduler spins while its worker computes. Given a core of its own that
    costs nothing; on one or two cores it takes the gateway's, or the worker's. One process also
    loads vLLM's modules once less.
    """
    alone = spec.accelerator == "cpu" and cores <= 2 and _workers(spec) == 1
    return "uni" if alone else None


def cores() -> int:
    """The physical cores that this process may use, or its logical ones where those are fewer."""
    import psutil  # vLLM's own need: it is where the engine is, and not on every gateway

    allowed = len(os.sched_getaffinity(0))
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def environment(spec: VllmModel) -> dict[str, str]:
    """Environment variables of the replica and its engine."""
    offline = {"HF_HUB_OFFLINE": "1"} if weights.is_local(spec.source) else {}
    return offline | (CPU_ENV if spec.accelerator == "cpu" else {}) | spec.env


def bundles(spec: VllmModel) -> list[dict[str, float]]:
    """What one replica reserves: a bundle for each of the engine's workers, its own CPUs first.

    The engine finds this placement group around its actor and puts its workers into it.
    """
    if spec.accelerator == "cpu":
        # Ray refuses a bundle of nothing.
        return [{"CPU": max(spec.cpus, 0.001)}]
    worker: dict[str, float] = {"GPU": 1.0}
    if spec.accelerator != "gpu":
        worker[f"accelerator_type:{spec.accelerator}"] = 0.001
    return [worker | {"CPU": spec.cpus}, *(worker for _ in range(_workers(spec) - 1))]


def _workers(spec: VllmModel) -> int:
    """Processes that one engine computes in."""
    ways = ("tensor_parallel_size", "pipeline_parallel_size")
    return math.prod(int(spec.engine_args.get(way, 1)) for way in ways)
