from __future__ import annotations

import json

from models.errors import Unavailable, Unsupported
from models.fake import FakeModel
from models.messages import Request
from models.probe import probe
from models.wrappers.profiles import profile_of
from models.wrappers.repair import Habits, Repair


def able(request: Request) -> str:
    """A model that does everything when it is told to in words."""
    told = "".join(message.text for message in request.messages)
    if "<tool_call>" in told:
        return '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>'
    return json.dumps({"colour": "blue"}) if "JSON schema" in told else "Hello there."


async def works(model: object) -> dict[str, bool]:
    return {each.ability: each.works for each in await probe(model, "m")}  # type: ignore[arg-type]


async def test_a_model_that_can_do_everything() -> None:
    habits = Habits(profile_of("m"), text_tools=True, json_in_words=True)
    model = Repair(FakeModel(reply=able), "m", habits)
    assert await works(model) == {"plain": True, "stream": True, "tools": True, "JSON": True}


async def test_a_model_that_only_talks() -> None:
    found = await probe(FakeModel(reply="Hello."), "m")
    assert [each.works for each in found] == [True, True, False, False]
    assert found[2].detail == "it called no tool and said: Hello."
    assert found[3].detail == "it is not JSON: Hello."


async def test_what_goes_wrong_is_said() -> None:
    [plain, *_] = await probe(FakeModel(reply=Unavailable("Down.")), "m")
    assert (plain.works, plain.detail) == (False, "unavailable: Down.")
    [*_, tools, _] = await probe(FakeModel(reply=Unsupported("No tools.")), "m")
    assert tools.detail == "unsupported: No tools."


async def test_an_empty_answer_is_none() -> None:
    assert not any((await works(FakeModel(reply=""))).values())
