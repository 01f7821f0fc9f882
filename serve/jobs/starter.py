"""Who makes a runner run: Ray's jobs in the cluster, the same process in a test."""

from __future__ import annotations

import asyncio
import shlex
import sys
from typing import Any, Protocol

from models.call import new_id
from models.errors import Unavailable
from serve.jobs.runner import Runner

_LOG_CHARACTERS = 100_000
#: The store's threads would each have a heap of their own, which a long batch fills one by one.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}


class Starter(Protocol):
    async def start(self, batch: str) -> str:
        """Begin to work on a batch; returns the job's name. Raises Unavailable."""
        ...

    async def logs(self, job: str) -> str:
        """The end of what the job has said."""
        ...


class RayJobs:
    """Each batch a Ray job: a process of its own, on the cluster, that outlives the gateway.

    Ray runs a job once and forgets it with its cluster. What a batch is and how far it has come
    stands in our store alone.
    """

    def __init__(self, address: str, store: str) -> None:
        """`address`: of Ray's GCS. `store`: the address of our store."""
        self._address = address
        self._store = store

    async def start(self, batch: str) -> str:
        # -P: whatever folder a job starts in, it is not searched for modules.
        python = [sys.executable, "-P", "-m", "serve.jobs.main", batch, "--store", self._store]
        command = ["env", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), *python]
        job: str = await self._do(
            "submit_job", entrypoint=shlex.join(command), submission_id=new_id(f"{batch}-run")
        )
        return job

    async def logs(self, job: str) -> str:
        text: str = await self._do("get_job_logs", job)
        return text[-_LOG_CHARACTERS:]

    async def _do(self, method: str, *args: Any, **named: Any) -> Any:
        def call() -> Any:
            from ray.job_submission import JobSubmissionClient

            return getattr(JobSubmissionClient(self._address), method)(*args, **named)

        try:
            return await asyncio.wait_for(asyncio.to_thread(call), 60)
        except Exception as error:  # its client raises RuntimeError, and what requests raises
            raise Unavailable(
                f"Ray's jobs do not answer ({type(error).__name__}).", retry_after_s=5.0
            ) from None


class Inline:
    """Works on batches in this very process."""

    def __init__(self, make: Any) -> None:
        """`make()` gives a new Runner."""
        self._make = make
        self.tasks: dict[str, asyncio.Task[Any]] = {}

    async def start(self, batch: str) -> str:
        runner: Runner = self._make()
        job = new_id("inline")
        self.tasks[job] = asyncio.create_task(runner.run(batch))
        return job

    async def logs(self, job: str) -> str:
        return "done" if self.tasks[job].done() else "at work"
