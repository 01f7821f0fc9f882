from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.call import Call
from models.errors import BadRequest, BudgetExceeded, Unavailable, UpstreamError
from models.fake import settle
from models.messages import ServerTool, Source, Tool
from models.tools.fake import FakeTools
from models.tools.settings import Tools
from models.tools.toolbox import Box, Boxes, Settle, ToolResult
from models.tools.toolset import Toolset
from models.tools.web_search import Search


@dataclass
class Echo:
    """Says its arguments, or fails as it is told to."""

    fails: list[Exception] = field(default_factory=list)
    gate: asyncio.Event | None = None
    ran: int = 0
    cancelled: int = 0
    spec: Tool = field(default_factory=lambda: Tool("echo", "Says it again."))
    max_uses: int | None = None
    nano_usd: int = 7

    def limited(self, parameters: Mapping[str, Any]) -> Echo:
        raise AssertionError("nobody limits it")

    async def run(self, arguments: Mapping[str, Any]) -> ToolResult:
        self.ran += 1
        try:
            if self.gate:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fails:
            raise self.fails.pop(0)
        return ToolResult(str(arguments["say"]), (Source("echo:", "Echo"),), nano_usd=7)


def box(tool: Echo, timeout_s: float = 5) -> Box:
    return Box({"echo": tool}, timeout_s=timeout_s)


async def test_a_result_comes_with_its_sources_and_price() -> None:
    result = await box(Echo()).call("echo", '{"say": "hi"}', Call())
    assert result == ToolResult("hi", (Source("echo:", "Echo"),), nano_usd=7)


async def test_the_same_call_looks_once_and_costs_once() -> None:
    tool = Echo()
    tools = box(tool)
    first = await tools.call("echo", '{"say": "hi", "x": 1}', Call())
    again = await tools.call("echo", '{"x":1,"say":"hi"}', Call())
    assert (again.text, again.nano_usd, tool.ran) == (first.text, 0, 1)


async def test_two_at_once_look_once() -> None:
    tool = Echo(gate=asyncio.Event())
    tools = box(tool)
    both = [asyncio.create_task(tools.call("echo", '{"say": "hi"}', Call())) for _ in range(2)]
    await settle()
    assert tool.gate
    tool.gate.set()
    assert [result.nano_usd for result in await asyncio.gather(*both)] == [7, 0]
    assert tool.ran == 1


async def test_the_look_goes_on_while_one_still_waits_and_ends_with_the_last() -> None:
    tool = Echo(gate=asyncio.Event())
    tools = box(tool)
    both = [asyncio.create_task(tools.call("echo", '{"say": "hi"}', Call())) for _ in range(2)]
    await settle()
    both[0].cancel()
    await settle()
    assert tool.cancelled == 0
    both[1].cancel()
    await settle()
    assert tool.cancelled == 1


async def test_who_comes_first_of_those_that_wait_is_told_the_cost() -> None:
    tool = Echo(gate=asyncio.Event())
    tools = box(tool)
    gone, *left = (
        asyncio.create_task(tools.call("echo", '{"say": "hi"}', Call())) for _ in range(3)
    )
    await settle()
    gone.cancel()
    assert tool.gate
    tool.gate.set()
    assert [result.nano_usd for result in await asyncio.gather(*left)] == [7, 0]


async def test_a_failure_is_a_result_and_is_tried_again() -> None:
    tool = Echo(fails=[Unavailable("The search is down.")])
    tools = box(tool)
    first = await tools.call("echo", '{"say": "hi"}', Call())
    assert (first.text, first.is_error) == ("The search is down.", True)
    assert (await tools.call("echo", '{"say": "hi"}', Call())).text == "hi"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [("{", "not JSON"), ("[1]", "one JSON object"), ("{}", "failed (KeyError)")],
)
async def test_wrong_arguments_are_told_to_the_model(arguments: str, says: str) -> None:
    result = await box(Echo()).call("echo", arguments, Call())
    assert result.is_error
    assert says in result.text


async def test_an_unknown_tool_is_told_to_the_model() -> None:
    result = await box(Echo()).call("sing", "{}", Call())
    assert result.is_error
    assert "echo" in result.text


async def test_a_tool_that_hangs_is_given_up() -> None:
    result = await box(Echo(gate=asyncio.Event()), timeout_s=0.01).call("echo", "{}", Call())
    assert result.is_error
    assert "0.01 seconds" in result.text


async def test_a_tool_runs_as_often_as_the_request_says_and_what_is_kept_is_no_use() -> None:
    tool = Echo(max_uses=2, fails=[Unavailable("down")])
    tools = box(tool)
    assert (await tools.call("echo", '{"say": "hi"}', Call())).is_error
    assert (await tools.call("echo", '{"say": "hi"}', Call())).text == "hi"
    assert (await tools.call("echo", '{"say": "hi"}', Call())).text == "hi"
    over = await tools.call("echo", '{"say": "more"}', Call())
    assert (over.is_error, "No uses of 'echo' are left" in over.text) == (True, True)
    assert tool.ran == 2


async def test_arguments_that_a_tool_cannot_use_are_no_use_of_it() -> None:
    tools = Box({"echo": Echo(max_uses=1, fails=[ValueError("say what?")])})
    refused = await tools.call("echo", '{"say": ""}', Call())
    assert (refused.is_error, "say what?" in refused.text) == (True, True)
    assert (await tools.call("echo", '{"say": "hi"}', Call())).text == "hi"


@dataclass
class Limited:
    """Pays as long as something is left of the call's cap."""

    held: int = 0
    spent: int = 0
    unknown: int = 0

    async def reserve(self, tool: str, most: int, call: Call) -> Settle:
        cap = call.cost_cap_nano_usd
        await asyncio.sleep(0)
        if cap is not None and self.spent + self.held + most > cap:
            raise BudgetExceeded("Nothing is left.")
        self.held += most

        def settle(cost: int | None) -> None:
            self.held -= most
            self.spent += most if cost is None else cost
            self.unknown += cost is None

        return settle


async def test_runs_stay_under_the_requests_cost_cap_also_at_the_same_time() -> None:
    tool, fees = Echo(gate=asyncio.Event()), Limited(spent=5)
    tools, call = Box({"echo": tool}, fees=fees), Call(cost_cap_nano_usd=20)
    both = [
        asyncio.create_task(tools.call("echo", f'{{"say": "{word}"}}', call))
        for word in ("one", "two", "three")
    ]
    await settle()
    assert tool.gate
    tool.gate.set()
    results = await asyncio.gather(*both)
    assert [result.is_error for result in results] == [False, False, True]
    assert results[2].text == "Nothing is left. Go on without 'echo'."
    assert (tool.ran, fees.spent, fees.held) == (2, 19, 0)


async def test_a_run_that_cost_nothing_after_all_gives_its_money_back() -> None:
    tool, fees = Echo(fails=[Unavailable("down")]), Limited()
    tools = Box({"echo": tool}, fees=fees)
    await tools.call("echo", '{"say": "hi"}', Call())
    assert (fees.spent, fees.held) == (0, 0)
    await tools.call("echo", '{"say": "hi"}', Call())
    assert (fees.spent, fees.held) == (7, 0)


async def test_a_run_that_is_cut_off_costs_the_most_that_it_can() -> None:
    tool, fees = Echo(gate=asyncio.Event()), Limited()
    tools = Box({"echo": tool}, fees=fees)
    run = asyncio.create_task(tools.call("echo", '{"say": "hi"}', Call()))
    await settle()
    run.cancel()
    await settle()
    assert (tool.cancelled, fees.spent, fees.held, fees.unknown) == (1, 7, 0, 1)


@pytest.mark.parametrize("failure", [UpstreamError("not JSON"), RuntimeError("a bug")])
async def test_a_run_that_failed_after_it_may_have_cost_something_is_an_estimate(
    failure: Exception,
) -> None:
    fees = Limited()
    tools = Box({"echo": Echo(fails=[failure])}, fees=fees)
    result = await tools.call("echo", '{"say": "hi"}', Call())
    assert (result.is_error, result.nano_usd) == (True, 7)
    assert (fees.spent, fees.held, fees.unknown) == (7, 0, 1)


async def test_a_run_that_nobody_pays_for_is_no_use() -> None:
    tools = Box({"echo": Echo(max_uses=1)}, fees=Limited())
    broke = await tools.call("echo", '{"say": "hi"}', Call(cost_cap_nano_usd=6))
    assert broke.is_error
    assert (await tools.call("echo", '{"say": "hi"}', Call())).text == "hi"


async def test_what_is_left_of_a_box_opens_the_next_one() -> None:
    wanted = [ServerTool("echo", {"max_uses": 2}), ServerTool("plain")]
    tools = Box({"echo": Echo(max_uses=2), "plain": Echo()}, wanted)
    assert tools.left() == tuple(wanted)
    await tools.call("echo", '{"say": "one"}', Call())
    assert tools.left() == (ServerTool("echo", {"max_uses": 1}), ServerTool("plain"))
    await tools.call("echo", '{"say": "two"}', Call())
    assert tools.left() == (ServerTool("plain"),)
    assert box(Echo()).left() is None


def test_who_names_no_tools_has_those_of_the_web_and_not_the_users_documents(
    tmp_path: Path,
) -> None:
    catalog = {"documents": {"folder": str(tmp_path)}, "web_fetch": {}}
    tools = Toolset(Tools.model_validate(catalog), httpx.AsyncClient(), {})
    assert [tool.name for tool in tools.open().specs()] == ["web_fetch"]
    assert [tool.name for tool in tools.open([ServerTool("documents")]).specs()] == ["documents"]


def configured() -> Toolset:
    catalog = {"web_fetch": {}, "web_search": {"provider": "searxng", "base_url": "http://s"}}
    return Toolset(Tools.model_validate(catalog), httpx.AsyncClient(), {})


@pytest.mark.parametrize(
    "boxes", [configured().open, FakeTools({"web_search": "a", "web_fetch": "b"}).open]
)
def test_a_box_has_all_tools_or_the_wanted_ones(boxes: Boxes) -> None:
    assert {tool.name for tool in boxes(None).specs()} == {"web_search", "web_fetch"}
    assert [tool.name for tool in boxes([ServerTool("web_fetch")]).specs()] == ["web_fetch"]
    assert boxes([]).specs() == ()
    with pytest.raises(BadRequest, match="nobody"):
        boxes([ServerTool("nobody")])


def test_a_wanted_tool_works_under_the_requests_own_parameters() -> None:
    tools = configured()
    limited = tools.open([ServerTool("web_search", {"max_results": 3})]).tools["web_search"]
    assert isinstance(limited, Search)
    assert limited.results == 3
    plain = tools.open().tools["web_search"]
    assert isinstance(plain, Search)
    assert plain.results == 5


def test_parameters_of_a_request_that_was_parked_as_json_are_the_same() -> None:
    parked = {"allowed_domains": ["a.org"], "user_location": {"city": "Rome"}}
    tool = configured().open([ServerTool("web_search", parked)]).tools["web_search"]
    assert isinstance(tool, Search)
    assert tool.options.allowed_domains == ("a.org",)
    assert str(tool.options.user_location) == "Rome"


async def test_fake_tools_record_what_they_were_asked() -> None:
    tools = FakeTools({"web_search": lambda arguments: f"about {arguments}"})
    assert (await tools.call("web_search", "cats", Call())).text == "about cats"
    assert (await tools.call("dig", "", Call())).is_error
    assert tools.calls == [("web_search", "cats"), ("dig", "")]


async def test_arguments_without_an_end_are_the_models_mistake() -> None:
    told = await box(Echo()).call("echo", "[" * 100_000, Call())
    assert told.is_error
