"""A user's own class as a model. The classes of this file stand for users'."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from models.call import Call
from models.catalog_file import load
from models.errors import DeadlineExceeded, Overloaded, UpstreamError
from models.fake import FakeClock
from models.flagship.custom import Custom
from models.messages import (
    Completion,
    Done,
    Event,
    ReasoningDelta,
    Request,
    TextDelta,
    Usage,
    assistant,
    user,
)
from models.spec import PythonModel

ASK = Request("mine", (user("hi"),))

THEIRS = """
import asyncio, sys, time
from models.errors import Overloaded
from models.messages import *

MADE = 0

class Whole:
    def __init__(self, word="hello"):
        global MADE
        MADE += 1
        self.word = word
    async def complete(self, request, call):
        return self.word

class Full:
    async def complete(self, request, call):
        return Completion("whatever", assistant("full"), usage=Usage(1, 2))

class Streams:
    async def stream(self, request, call):
        yield "a "
        yield TextDelta("b")

class Ends:
    async def stream(self, request, call):
        yield "a"
        yield Done(Completion("x", assistant("a"), usage=Usage(3, 4)))
        yield "never"

class Sync:
    def complete(self, request, call):
        return "x"

class SyncStream:
    def stream(self, request, call):
        yield "x"

class Nothing:
    pass

class Breaks:
    async def complete(self, request, call):
        raise KeyError("oops")
    async def stream(self, request, call):
        yield "a"
        raise KeyError("oops")

class Busy:
    async def complete(self, request, call):
        raise Overloaded("later")

class Odd:
    async def complete(self, request, call):
        return 5
    async def stream(self, request, call):
        yield 5

class Slow(Whole):
    def __init__(self):
        super().__init__("at last")
        time.sleep(0.3)

class Flaky(Whole):
    def __init__(self):
        super().__init__("now")
        if MADE == 1:
            raise KeyError("not yet")

class Exits:
    async def complete(self, request, call):
        sys.exit()
    async def stream(self, request, call):
        yield "a"
        sys.exit()

class ExitsAtOnce(Exits):
    def __init__(self):
        sys.exit()

class Gives:
    def __init__(self, what):
        self.what = what
    async def stream(self, request, call):
        yield eval(self.what)

class Returns:
    def __init__(self, what):
        self.what = what
    async def complete(self, request, call):
        return eval(self.what)

class Hangs:
    async def complete(self, request, call):
        await asyncio.sleep(60)
    async def stream(self, request, call):
        yield "a"
        await asyncio.sleep(60)
"""


@pytest.fixture(autouse=True)
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "their_models.py").write_text(THEIRS)
    monkeypatch.delitem(sys.modules, "their_models", raising=False)
    return tmp_path


def model(theirs: Path, name: str, **spec: Any) -> Custom:
    entry = {"engine": "python", "target": f"their_models:{name}", "path": str(theirs), **spec}
    return Custom("mine", PythonModel.model_validate(entry))


async def listen(model: Custom) -> list[Event]:
    return [event async for event in model.stream(ASK, Call())]


async def test_a_text_is_an_answer(theirs: Path) -> None:
    done = await model(theirs, "Whole").complete(ASK, Call())
    assert (done.model, done.text) == ("mine", "hello")


async def test_half_characters_are_marked(theirs: Path) -> None:
    half = model(theirs, "Whole", options={"word": "a\ud83d"})
    assert (await half.complete(ASK, Call())).text == "a?"


async def test_so_is_a_completion_under_our_name(theirs: Path) -> None:
    done = await model(theirs, "Full").complete(ASK, Call())
    assert (done.model, done.text, done.usage) == ("mine", "full", Usage(1, 2))


async def test_options_go_to_the_class(theirs: Path) -> None:
    done = await model(theirs, "Whole", options={"word": "bye"}).complete(ASK, Call())
    assert done.text == "bye"


async def test_what_it_lacks_is_made_of_what_it_has(theirs: Path) -> None:
    whole = Completion("mine", assistant("hello"))
    assert await listen(model(theirs, "Whole")) == [TextDelta("hello"), Done(whole)]
    assert (await model(theirs, "Streams").complete(ASK, Call())).text == "a b"


async def test_a_stream_gets_its_end(theirs: Path) -> None:
    *pieces, done = await listen(model(theirs, "Streams"))
    assert pieces == [TextDelta("a "), TextDelta("b")]
    assert done == Done(Completion("mine", assistant("a b")))
    *_, done = await listen(model(theirs, "Ends"))
    assert done == Done(Completion("mine", assistant("a"), usage=Usage(3, 4)))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Sync", "is not 'async def'"),
        ("SyncStream", "is not 'async def' with 'yield'"),
        ("Nothing", "neither complete nor stream"),
        ("Missing", "has no attribute 'Missing'"),
        ("Odd", "a int"),
        ("Breaks", r"\(KeyError\): 'oops'"),
    ],
)
async def test_what_is_wrong_with_it_is_said(theirs: Path, name: str, says: str) -> None:
    with pytest.raises(UpstreamError, match=says):
        await model(theirs, name).complete(ASK, Call())
    with pytest.raises(UpstreamError, match=says):
        await listen(model(theirs, name))


async def test_one_of_our_errors_stays_itself(theirs: Path) -> None:
    with pytest.raises(Overloaded, match="later"):
        await model(theirs, "Busy").complete(ASK, Call())


async def test_it_has_no_more_time_than_there_is(theirs: Path) -> None:
    slow = model(theirs, "Hangs", timeout_s=0.05)
    with pytest.raises(DeadlineExceeded, match=r"0\.1 s|0\.0 s"):
        await slow.complete(ASK, Call())
    with pytest.raises(DeadlineExceeded):
        await listen(slow)
    late = Custom("mine", slow._spec, FakeClock(now=1000))
    with pytest.raises(DeadlineExceeded):
        await late.complete(ASK, Call(deadline=999))


async def test_the_deadline_does_not_cancel_a_slow_reader(theirs: Path) -> None:
    with pytest.raises(DeadlineExceeded):
        async for _ in model(theirs, "Hangs", timeout_s=0.05).stream(ASK, Call()):
            await asyncio.sleep(0.1)


async def test_it_is_made_once_and_late(theirs: Path) -> None:
    mine = model(theirs, "Whole")
    assert "their_models" not in sys.modules
    await asyncio.gather(mine.complete(ASK, Call()), mine.complete(ASK, Call()))
    assert sys.modules["their_models"].MADE == 1


async def test_a_slow_one_is_made_once_however_short_each_call_is(theirs: Path) -> None:
    slow = model(theirs, "Slow", timeout_s=0.05)
    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            await slow.complete(ASK, Call())
    await asyncio.sleep(0.4)
    assert (await slow.complete(ASK, Call())).text == "at last"
    assert sys.modules["their_models"].MADE == 1


async def test_one_that_could_not_be_made_is_tried_again(theirs: Path) -> None:
    flaky = model(theirs, "Flaky")
    with pytest.raises(UpstreamError, match="not yet"):
        await flaky.complete(ASK, Call())
    assert (await flaky.complete(ASK, Call())).text == "now"


@pytest.mark.parametrize("name", ["Exits", "ExitsAtOnce"])
async def test_one_that_wants_to_end_the_program_ends_its_call(theirs: Path, name: str) -> None:
    with pytest.raises(UpstreamError, match="SystemExit"):
        await model(theirs, name).complete(ASK, Call())
    with pytest.raises(UpstreamError, match="SystemExit"):
        await listen(model(theirs, name))


async def test_so_does_a_module_that_ends_it(theirs: Path) -> None:
    (theirs / "their_exit.py").write_text("raise SystemExit(2)")
    entry = {"engine": "python", "target": "their_exit:X", "path": str(theirs)}
    with pytest.raises(UpstreamError, match="SystemExit"):
        await Custom("mine", PythonModel.model_validate(entry)).complete(ASK, Call())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("TextDelta(None)", "TextDelta whose text is wrong"),
        ("ToolCallDelta('x')", "ToolCallDelta whose index is wrong"),
        ("Done(Completion('x', None))", "Completion whose message is wrong"),
        ("Done(5)", "a int"),
        ("Completion('x', assistant(None))", "not an event"),
        ("None", "a NoneType"),
    ],
)
async def test_what_is_wrong_with_an_event_is_said(theirs: Path, given: str, says: str) -> None:
    with pytest.raises(UpstreamError, match=says):
        await listen(model(theirs, "Gives", options={"what": given}))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("Completion('x', None)", "Completion whose message is wrong"),
        ("Completion('x', assistant(None))", r"whose message\.content"),
        ("Completion('x', assistant('a'), 'whatever')", "whose finish_reason is wrong"),
        ("None", "a NoneType"),
    ],
)
async def test_what_is_wrong_with_an_answer_is_said(theirs: Path, given: str, says: str) -> None:
    with pytest.raises(UpstreamError, match=says):
        await model(theirs, "Returns", options={"what": given}).complete(ASK, Call())


async def test_half_characters_are_marked_wherever_they_stand(theirs: Path) -> None:
    given = "Completion('x', Message('assistant', [Text('a\\ud83d')]))"
    done = await model(theirs, "Returns", options={"what": given}).complete(ASK, Call())
    assert done == Completion("mine", assistant("a?"))
    events = await listen(model(theirs, "Gives", options={"what": "ReasoningDelta('b\\ud83d')"}))
    assert events[0] == ReasoningDelta("b?")


async def test_their_folder_hides_none_of_our_modules(theirs: Path) -> None:
    (theirs / "models").mkdir()
    (theirs / "models" / "__init__.py").write_text("raise SystemExit")
    (theirs / "json.py").write_text("raise SystemExit")
    assert (await model(theirs, "Whole").complete(ASK, Call())).text == "hello"
    assert sys.path[-1] == str(theirs)


def test_a_folder_is_meant_from_where_the_catalog_stands(theirs: Path) -> None:
    text = "models: {mine: {engine: python, target: 'their_models:Whole', path: lib}}\n"
    (theirs / "fusion.yaml").write_text(text + "roles: {judge: mine}\n")
    spec = load(theirs / "fusion.yaml").models["mine"]
    assert isinstance(spec, PythonModel)
    assert spec.path == str(theirs / "lib")


@pytest.mark.parametrize("target", ["no-colon", "a:b:c", "a b:C", ":C"])
def test_a_target_is_a_module_and_a_class(target: str) -> None:
    with pytest.raises(ValueError, match="target"):
        PythonModel.model_validate({"engine": "python", "target": target})
