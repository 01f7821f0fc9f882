"""The interface of tools that the server runs itself, and the box that one request opens."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from models import messages
from models.call import Call
from models.errors import UNPAID, FusionError
from models.messages import Source, Tool
from models.values import changed

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


def failed(text: str, nano_usd: int = 0) -> ToolResult:
    return ToolResult(text, is_error=True, nano_usd=nano_usd)


class ToolBox(Protocol):
    """The tools of one request. Asked the same twice, it looks only once."""

    def specs(self) -> tuple[Tool, ...]:
        """The tools as a model is told of them."""
        ...

    def left(self) -> tuple[messages.ServerTool, ...] | None:
        """What the box was opened with, less what was used up of it: for who goes on in another
        process."""
        ...

    async def call(self, name: str, arguments: str, call: Call) -> ToolResult:
        """Run one tool on JSON arguments as the model wrote them.

        Never raises for what the model or the tool did wrong; that is an `is_error` result.
        May be cancelled, and may be called several times at once.
        """
        ...


#: Opens the box of one request, with these tools in it; None: those of the web that there are.
#: Raises BadRequest for a tool that is not configured.
Boxes = Callable[[Sequence[messages.ServerTool] | None], ToolBox]


class ServerTool(Protocol):
    """One tool. Lives as long as the process and serves many requests at once."""

    @property
    def spec(self) -> Tool: ...

    @property
    def max_uses(self) -> int | None:
        """How often one request may have it run."""
        ...

    @property
    def nano_usd(self) -> int:
        """The most that its provider takes for one run."""
        ...

    def limited(self, parameters: Mapping[str, Any]) -> ServerTool:
        """The same tool under one request's own parameters, which its options (see
        `models.tools.options`) describe."""
        ...

    async def run(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Raises a FusionError, or ValueError for arguments that it cannot use."""
        ...


#: Told what a run has cost, in nano-dollars; None: nobody knows.
Settle = Callable[[int | None], None]


class Fees(Protocol):
    """Pays what a tool's provider takes, within every limit of the caller's: `serve.money.fees`."""

    async def reserve(self, tool: str, most: int, call: Call) -> Settle:
        """Set aside the most that one run can cost. Raises BudgetExceeded or StoreUnavailable."""
        ...


@dataclass(slots=True)
class _Run:
    """A call under way or over, and how many wait for it."""

    task: asyncio.Task[ToolResult]
    waiting: int = 0
    #: Somebody was told what it cost.
    told: bool = False


@dataclass(slots=True)
class Box:
    """`tools` by name, with every good result kept for as long as the box lives. `wanted` is what
    it was opened with."""

    tools: Mapping[str, ServerTool]
    wanted: Sequence[messages.ServerTool] | None = None
    #: Where runs that cost something are paid. None: nobody counts.
    fees: Fees | None = None
    #: Seconds that one call may take: above what any tool's own settings allow.
    timeout_s: float = 65.0
    _runs: dict[tuple[str, str], _Run] = field(default_factory=dict)
    #: How often each may still run, where that is limited.
    _left: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        limits = ((name, tool.max_uses) for name, tool in self.tools.items())
        self._left = {name: most for name, most in limits if most is not None}

    def specs(self) -> tuple[Tool, ...]:
        return tuple(tool.spec for tool in self.tools.values())

    def left(self) -> tuple[messages.ServerTool, ...] | None:
        if self.wanted is None:
            return None
        return tuple(
            changed(one, parameters={**one.parameters, "max_uses": self._left[one.name]})
            if one.name in self._left
            else one
            for one in self.wanted
            if self._left.get(one.name) != 0
        )

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
        if run is None:
            if self._left.get(name) == 0:
                return failed(f"No uses of '{name}' are left in this request. Go on without it.")
            if name in self._left:
                self._left[name] -= 1
            work = self._run(name, parsed, call)
            run = self._runs[key] = _Run(asyncio.create_task(work))
        result = await self._wait(key, run)
        if run.told:
            return replace(result, nano_usd=0)
        run.told = True
        return result

    async def _run(self, name: str, arguments: Mapping[str, Any], call: Call) -> ToolResult:
        tool = self.tools[name]
        if self.fees is None or not tool.nano_usd:
            return await self._told(name, arguments)
        try:
            settle = await self.fees.reserve(name, tool.nano_usd, call)
        except FusionError as error:
            self._unused(name)
            return failed(f"{error.message} Go on without '{name}'.")
        cost = None
        try:
            result = await self._told(name, arguments)
            # What a failure cost is not known.
            cost = None if result.is_error and result.nano_usd else result.nano_usd
        finally:
            settle(cost)
        return result

    async def _told(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        """What the tool says, or its failure as a result: at its price, unless its provider surely
        takes nothing for that."""
        price = self.tools[name].nano_usd
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self.tools[name].run(arguments)
        except TimeoutError:
            return failed(f"The tool gave no answer within {self.timeout_s:g} seconds.", price)
        except UNPAID as error:
            return failed(error.message)
        except FusionError as error:
            return failed(error.message, price)
        except ValueError as error:
            self._unused(name)
            return failed(f"The arguments cannot be used: {error}")
        except Exception as error:  # a bug of ours, or in a library that reads a stranger's bytes
            log.exception("a tool failed")
            return failed(f"The tool failed ({type(error).__name__}).", price)

    def _unused(self, name: str) -> None:
        """It did not run after all."""
        if name in self._left:
            self._left[name] += 1

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
