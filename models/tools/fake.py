"""Tools that a test owns. They ship with the package: users test with them too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from models.call import Call
from models.errors import BadRequest
from models.messages import ServerTool, Source, Tool
from models.tools.toolbox import ToolResult, failed

#: What a fake tool gives: a text, a whole result, or a function of the arguments.
Given = str | ToolResult | Callable[[str], "str | ToolResult"]

_QUERY = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}


@dataclass
class FakeTools:
    """A `ToolBox` that gives what it is told to, and records every call (name, arguments)."""

    results: Mapping[str, Given] = field(default_factory=lambda: {"web_search": "nothing found"})
    seconds: float = 0.0
    calls: list[tuple[str, str]] = field(default_factory=list)

    #: What each opening wanted.
    opened: list[tuple[ServerTool, ...] | None] = field(default_factory=list)
    wanted: tuple[ServerTool, ...] | None = None

    def open(self, wanted: Sequence[ServerTool] | None = None) -> FakeTools:
        """Itself, with the wanted tools alone."""
        self.opened.append(None if wanted is None else tuple(wanted))
        if wanted is None:
            return self
        names = [one.name for one in wanted]
        if unknown := [name for name in names if name not in self.results]:
            raise BadRequest(f"No server tool is called '{unknown[0]}' here.", param="tools")
        return replace(
            self, results={name: self.results[name] for name in names}, wanted=tuple(wanted)
        )

    def left(self) -> tuple[ServerTool, ...] | None:
        return self.wanted

    def specs(self) -> tuple[Tool, ...]:
        return tuple(Tool(name, f"A fake {name}.", _QUERY) for name in self.results)

    async def call(self, name: str, arguments: str, call: Call) -> ToolResult:
        self.calls.append((name, arguments))
        if self.seconds:
            await asyncio.sleep(self.seconds)
        given = self.results.get(name)
        if given is None:
            return failed(f"There is no tool '{name}'.")
        result = given(arguments) if callable(given) else given
        if isinstance(result, ToolResult):
            return result
        return ToolResult(result, (Source(f"fake:{name}", f"A source of {name}"),))
