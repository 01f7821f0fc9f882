"""What the gateway counts, and `/metrics` over all replicas of the cluster.

Every process hands its numbers to the metrics agent of its node (Ray's own mechanism). A scrape
of one gateway therefore asks the agents of all nodes, and shows all replicas and not one.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Protocol

import httpx
import ray
from ray.util import metrics as ray_metrics

from models.messages import Completion

#: Families that are about this system; Ray's agents export hundreds more about themselves.
KEPT = re.compile(
    r"^(# (HELP|TYPE) )?ray_(fusion|vllm|serve_(autoscaling|deployment|haproxy|http|num|replica))_"
)
_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300]
_NODES_KEPT_S = 10.0


class Recorder(Protocol):
    """Where the gateway reports what it served."""

    def served(self, model: str, status: int, seconds: float) -> None: ...

    def first_token(self, model: str, seconds: float) -> None: ...

    def answered(self, completion: Completion) -> None: ...


class RayRecorder:
    """Reports to Ray's metrics. Exported with the prefix `ray_`."""

    def __init__(self) -> None:
        self._requests = ray_metrics.Counter(
            "fusion_requests_total",
            description="Requests answered, by the name asked for and HTTP status.",
            tag_keys=("model", "status"),
        )
        self._seconds = ray_metrics.Histogram(
            "fusion_request_seconds",
            description="Seconds from a request's arrival to its last byte.",
            boundaries=_SECONDS,
            tag_keys=("model",),
        )
        self._first_token = ray_metrics.Histogram(
            "fusion_first_token_seconds",
            description="Seconds from a streamed request's arrival to its first token.",
            boundaries=_SECONDS,
            tag_keys=("model",),
        )
        self._tokens = ray_metrics.Counter(
            "fusion_tokens_total",
            description="Tokens of inner calls, by model, role and direction (input, output).",
            tag_keys=("model", "role", "direction"),
        )
        self._cost = ray_metrics.Counter(
            "fusion_cost_usd_total",
            description="US dollars of inner calls, by model and role. For watching; not exact.",
            tag_keys=("model", "role"),
        )

    def served(self, model: str, status: int, seconds: float) -> None:
        self._requests.inc(1, {"model": model, "status": str(status)})
        self._seconds.observe(seconds, {"model": model})

    def first_token(self, model: str, seconds: float) -> None:
        self._first_token.observe(seconds, {"model": model})

    def answered(self, completion: Completion) -> None:
        for stage in completion.stages:
            tags = {"model": stage.model, "role": stage.role}
            for direction, count in (("input", stage.usage.input), ("output", stage.usage.output)):
                if count:
                    self._tokens.inc(count, tags | {"direction": direction})
            if stage.nano_usd:
                self._cost.inc(stage.nano_usd / 1e9, tags)


class ClusterMetrics:
    """The metrics of all nodes as one Prometheus text."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(timeout=5.0)
        self._nodes: list[str] = []
        self._nodes_at = 0.0

    async def text(self) -> str:
        """Families of `KEPT`. A node that does not answer is left out and said so."""
        if time.monotonic() - self._nodes_at > _NODES_KEPT_S:
            self._nodes = await asyncio.to_thread(_agents)
            self._nodes_at = time.monotonic()
        pages = await asyncio.gather(*(self._page(address) for address in self._nodes))
        missing = sum(page is None for page in pages)
        merged = merge(page for page in pages if page is not None)
        return f"{merged}# {len(pages) - missing} of {len(pages)} nodes answered\n"

    async def _page(self, address: str) -> str | None:
        try:
            response = await self._client.get(f"http://{address}/metrics")
        except httpx.HTTPError:
            return None
        return response.text if response.status_code == 200 else None


def _agents() -> list[str]:
    return [
        f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
        for node in ray.nodes()
        if node["Alive"]
    ]


def merge(pages: Iterable[str]) -> str:
    """Several Prometheus texts as one: each family's HELP and TYPE once, its samples together."""
    families: dict[str, tuple[dict[str, str], list[str]]] = {}
    for page in pages:
        family = ""
        for line in page.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                _, kind, family, *_ = line.split(" ", 3)
                if KEPT.match(line):
                    families.setdefault(family, ({}, []))[0].setdefault(kind, line)
            elif KEPT.match(line):
                name = family if family and line.startswith(family) else re.split(r"[{ ]", line)[0]
                families.setdefault(name, ({}, []))[1].append(line)
    lines = (line for heads, samples in families.values() for line in (*heads.values(), *samples))
    return "".join(f"{line}\n" for line in lines)
