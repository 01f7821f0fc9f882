"""The interface of tools that the server runs itself, and the box that one request opens."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from models import messages
from models.call import Call
from models.errors import FusionError
from models.messages import Source, Tool

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gives back to the model: text, and where it comes from.

    A failure is a result too (`is_error`): its text tells the model what it may do instead.
    """

    text: str
    sources: tuple[Source, ...] = ()
    is_error: bool = False
    #: What the tool's own provider takes for the call. Nothing for a result that was kept.
    nano_usd: int = 0


def failed(text: str) -> ToolResult:
    return ToolResult(text, is_error=True)


class ToolBox(Protocol):
    """The tools of one request. Asked the same twice, it looks only once."""

    def specs(self) -> tuple[Tool, ...]:
        """The tools as a model is told of them."""
        ...

    async def call(self, name: str, arguments: str, call: Call) -> ToolResult:
        """Run one tool on JSON arguments as the model wrote them.

        Never raises for what the model or the tool did wrong; that is an `is_error` result.
        May be cancelled, and may be called several times at once.
        """
        ...


#: Opens the box of one request, with these tools in it; None: all that there are. Raises BadRequest
#: for a tool that is not configured.
Boxes = Callable[[Sequence[messages.ServerTool] | None], ToolBox]


class ServerTool(Protocol):
    """One tool. Lives as long as the process and serves many requests at once."""

    @property
    def spec(self) -> Tool: ...

    def limited(self, parameters: Mapping[str, Any]) -> ServerTool:
        """The same tool under one request's own parameters, which its options (see
        `models.tools.settings`) describe."""
        ...

    async def run(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Raises a FusionError, or ValueError for arguments that it cannot use."""
        ...


@dataclass(slots=True)
class _Run:
    """A call under way or over, and how many wait for it."""

    task: asyncio.Task[ToolResult]
    waiting: int = 0


@dataclass(slots=True)
class Box:
    """`tools` by name, with every good result kept for as long as the box lives."""

    tools: Mapping[str, ServerTool]
    #: Seconds that one call may take: above what any tool's own settings allow.
    timeout_s: float = 65.0
    _runs: dict[tuple[str, str], _Run] = field(default_factory=dict)

    def specs(self) -> tuple[Tool, ...]:
        return tuple(tool.spec for tool in self.tools.values())

    async def call(self, name: str, arguments: str, call: Call) -> ToolResult:
        tool = self.tools.get(name)
        if tool is None:
            there = ", ".join(self.tools) or "none"
            return failed(f"There is no tool '{name}'. There are: {there}.")
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            return failed(f"The arguments are not JSON ({error}). Send one JSON object.")
        if not isinstance(parsed, dict):
            return failed("The arguments must be one JSON object.")
        key = (name, json.dumps(parsed, sort_keys=True))
        run = self._runs.get(key)
        kept = run is not None
        if run is None:
            work = _told(tool.run(parsed), self.timeout_s)
            run = self._runs[key] = _Run(asyncio.create_task(work))
        result = await self._wait(key, run)
        return ToolResult(result.text, result.sources, result.is_error) if kept else result

    async def _wait(self, key: tuple[str, str], run: _Run) -> ToolResult:
        """The result of `run`, which goes on while at least one waits for it."""
        run.waiting += 1
        try:
            result = await asyncio.shield(run.task)
        except BaseException:
            if run.waiting == 1 and not run.task.done():
                run.task.cancel()
                self._forget(key, run)
            raise
        finally:
            run.waiting -= 1
        if result.is_error:
            self._forget(key, run)  # a second try may go better
        return result

    def _forget(self, key: tuple[str, str], run: _Run) -> None:
        if self._runs.get(key) is run:
            del self._runs[key]


async def _told(work: Coroutine[Any, Any, ToolResult], timeout_s: float) -> ToolResult:
    """The result of `work`, or its failure as one."""
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except TimeoutError:
        return failed(f"The tool gave no answer within {timeout_s:g} seconds.")
    except FusionError as error:
        return failed(error.message)
    except ValueError as error:
        return failed(f"The arguments cannot be used: {error}")
    except Exception as error:  # a bug of ours, or in a library that reads a stranger's bytes
        log.exception("a tool failed")
        return failed(f"The tool failed ({type(error).__name__}).")
