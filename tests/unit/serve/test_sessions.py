"""Sessions: items in the store, a request within one, models that change in the middle."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import stores
from hypothesis import given
from hypothesis import strategies as st

from models.answerer import Events
from models.call import Call
from models.catalog import Catalog
from models.errors import BadRequest, Conflict, ContextTooLong, NotFound, Unavailable
from models.fake import FakeClock, FakeModel
from models.messages import (
    Completion,
    Done,
    Image,
    Message,
    Reasoning,
    Request,
    Text,
    ToolCall,
    assistant,
    system,
    user,
)
from serve.access.caller import Caller
from serve.control.sessions import summary, transcript
from serve.control.sessions.carry import NO_IMAGE, carried
from serve.control.sessions.memory import StoredAnswers
from serve.control.sessions.remembering import Remembering
from serve.control.sessions.store import Item, New, Sessions
from serve.control.sweep import sweep
from serve.store.database import Database

CATALOG = Catalog.model_validate(
    {
        "models": {
            "large": {"engine": "fake", "context": 8192, "tools": True, "images": True},
            "small": {"engine": "fake", "context": 512, "max_output": 64},
        },
        "roles": {"judge": "large", "reduce": "small"},
    }
)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with stores.empty(f"sqlite:///{tmp_path}/fusion.db") as made:
        yield made


@pytest.fixture
def sessions(database: Database) -> Sessions:
    return Sessions(database, FakeClock(1000.0))


@dataclass
class Named:
    """A fake model under each name, so that an answer says who wrote it."""

    reply: str = "ok"
    calls: list[Request] = field(default_factory=list)

    async def complete(self, request: Request, call: Call) -> Completion:
        self.calls.append(request)
        return await FakeModel(request.model, self.reply).complete(request, call)

    async def stream(self, request: Request, call: Call) -> Events:
        self.calls.append(request)
        async for event in FakeModel(request.model, self.reply).stream(request, call):
            yield event


def remembering(sessions: Sessions, model: Named) -> Remembering:
    return Remembering(model, CATALOG, model, sessions)


async def texts(sessions: Sessions, identity: str) -> list[str]:
    page = await sessions.page(identity, "default", limit=20_000)
    return ["".join(part.get("text", "") for part in item["message"]["content"]) for item in page]


def ask(model: str, text: str) -> Request:
    return Request(model, (user(text),))


# The store


async def test_a_session_is_made_read_renamed_archived_and_deleted(sessions: Sessions) -> None:
    made = await sessions.create("default", "Trip", [New(user("hi"))])
    identity = made["id"]
    assert await sessions.read(identity, "default") == made
    renamed = await sessions.change(identity, "default", name="Journey", archived=True)
    assert (renamed["name"], renamed["archived"], renamed["length"]) == ("Journey", True, 1)
    with pytest.raises(Conflict, match="archived"):
        await sessions.append(identity, "default", [New(user("more"))])
    await sessions.delete(identity, "default")
    with pytest.raises(NotFound):
        await sessions.read(identity, "default")


async def test_another_projects_session_is_not_there(sessions: Sessions) -> None:
    identity = (await sessions.create("default"))["id"]
    for attempt in (
        sessions.read(identity, "other"),
        sessions.page(identity, "other"),
        sessions.append(identity, "other", [New(user("x"))]),
        sessions.fork(identity, "other"),
        sessions.change(identity, "other", name="mine"),
        sessions.delete(identity, "other"),
        sessions.history(identity, "other"),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert await sessions.newest("other") == []


async def test_pages_of_sessions_go_back_in_time(sessions: Sessions) -> None:
    made = [(await sessions.create("default", str(at)))["id"] for at in range(7)]
    seen: list[str] = []
    before = None
    while page := await sessions.newest("default", before=before, limit=3):
        seen += [one["id"] for one in page]
        before = seen[-1]
    assert sorted(seen) == sorted(made)


async def test_appends_at_the_same_time_lose_and_double_nothing(sessions: Sessions) -> None:
    identity = (await sessions.create("default"))["id"]
    await asyncio.gather(
        *(
            sessions.append(identity, "default", [New(user(f"q{at}")), New(assistant(f"a{at}"))])
            for at in range(20)
        )
    )
    told = await texts(sessions, identity)
    assert len(told) == 40
    pairs = list(zip(told[::2], told[1::2], strict=True))
    assert sorted(pairs) == sorted((f"q{at}", f"a{at}") for at in range(20))


async def test_a_fork_goes_its_own_way(sessions: Sessions) -> None:
    identity = (await sessions.create("default", "A", [New(user(c)) for c in "abc"]))["id"]
    items = await sessions.page(identity, "default")
    fork = await sessions.fork(identity, "default", items[1]["id"])
    assert (fork["parent"], fork["length"]) == (identity, 2)
    await sessions.append(fork["id"], "default", [New(user("z"))])
    assert await texts(sessions, fork["id"]) == ["a", "b", "z"]
    assert await texts(sessions, identity) == ["a", "b", "c"]
    with pytest.raises(BadRequest, match="no item"):
        await sessions.fork(identity, "default", "item_nowhere")


async def test_ten_thousand_items(sessions: Sessions) -> None:
    new = [New(user(str(at))) for at in range(10_000)]
    identity = (await sessions.create("default", "", new))["id"]
    assert len((await sessions.history(identity, "default")).items) == 10_000
    lines = [line async for line in transcript.written(sessions, identity, "default")]
    assert len(lines) == 10_001


# Export and import

MESSAGES = [
    user("hi"),
    Message("user", (Text("see"), Image("https://x/y.png", "low"))),
    Message(
        "assistant", (), (ToolCall("1", "f", '{"a": 1}'),), reasoning=(Reasoning("hm", "sig"),)
    ),
    Message("tool", (Text("42"),), tool_call_id="1", is_error=True),
]


async def pieces(raw: bytes, size: int = 100) -> AsyncIterator[bytes]:
    """A file as it comes over the network."""
    for at in range(0, len(raw), size):
        yield raw[at : at + size]


async def test_what_goes_out_comes_back_in(sessions: Sessions) -> None:
    identity = (await sessions.create("default", "Trip", [New(m, "large") for m in MESSAGES]))["id"]
    raw = b"".join([line async for line in transcript.written(sessions, identity, "default")])
    name, new = await transcript.read(pieces(raw))
    assert name == "Trip"
    assert [one.message for one in new] == MESSAGES
    assert {one.model for one in new} == {"large"}


HEAD = b'{"format": "fusion-session", "version": 1}\n'


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "empty"),
        (b"{}\n", "Line 1"),
        (b'{"format": "fusion-session", "version": 2}', "Line 1"),
        (b"\xff\xfe\n", "Line 1 is not JSON"),
        (HEAD + b"[]\n", "Line 2 is not a JSON object"),
        (HEAD + b"{}\n", "Line 2"),
        (HEAD + b'{"message": {"role": "god", "content": "x"}}\n', "Line 2: role"),
        (HEAD + b'{"message": {"role": "user", "content": [{"text": 7}]}}\n', "Line 2"),
        (HEAD + b'{"message": {"role": "user", "content": "x"}, "model": 7}\n', "Line 2: 'model'"),
        (HEAD + b"[" * 100_000 + b"\n", "Line 2 is not JSON"),
        (HEAD + b'"' + b"x" * transcript.MOST_LINE + b'"\n', "longer than"),
        (HEAD + b"\n" * 100_002, "more than"),
    ],
)
@pytest.mark.parametrize("size", [7, 65_536])
async def test_a_broken_or_hostile_file_is_refused_by_its_line(
    raw: bytes, says: str, size: int
) -> None:
    if len(raw) > 200_000:
        size = 65_536
    with pytest.raises(BadRequest, match=says):
        await transcript.read(pieces(raw, size))


async def test_ids_of_an_imported_file_are_given_anew(sessions: Sessions) -> None:
    victim = (await sessions.create("default", "", [New(user("mine"))]))["id"]
    line = {"id": victim, "session": victim, "message": {"role": "user", "content": "theirs"}}
    raw = HEAD.replace(b"}", b', "id": "' + victim.encode() + b'"}') + json.dumps(line).encode()
    name, new = await transcript.read(pieces(raw))
    made = await sessions.create("other", name, new)
    assert made["id"] != victim
    assert await texts(sessions, victim) == ["mine"]


# A request within a session


async def test_the_history_goes_before_and_the_turn_is_kept(sessions: Sessions) -> None:
    model = Named()
    identity = (await sessions.create("default"))["id"]
    within = Call(session=identity)
    for text in ("one", "two"):
        request = Request("large", (system("Be brief."), user(text)))
        await remembering(sessions, model).complete(request, within)
    assert [m.text for m in model.calls[1].messages] == ["Be brief.", "one", "ok", "two"]
    assert await texts(sessions, identity) == ["one", "ok", "two", "ok"]


async def test_a_streamed_turn_is_kept_before_its_end_is_told(sessions: Sessions) -> None:
    identity = (await sessions.create("default"))["id"]
    stream = remembering(sessions, Named()).stream(ask("large", "hi"), Call(session=identity))
    async for event in stream:
        if isinstance(event, Done):
            assert await texts(sessions, identity) == ["hi", "ok"]


@pytest.mark.parametrize("name", ["fusion/plan", "fusion/auto"])
async def test_who_writes_is_not_known_of_every_name(sessions: Sessions, name: str) -> None:
    identity = (await sessions.create("default"))["id"]
    await remembering(sessions, Named()).complete(ask(name, "hi"), Call(session=identity))
    assert await texts(sessions, identity) == ["hi", "ok"]


async def test_a_failed_turn_leaves_nothing(sessions: Sessions) -> None:
    identity = (await sessions.create("default"))["id"]
    failing = FakeModel(reply=Unavailable("down"))
    with pytest.raises(Unavailable):
        await Remembering(failing, CATALOG, failing, sessions).complete(
            ask("large", "hi"), Call(session=identity)
        )
    assert await texts(sessions, identity) == []


async def test_a_session_that_is_not_there(sessions: Sessions) -> None:
    model = Named()
    with pytest.raises(NotFound):
        await remembering(sessions, model).complete(ask("large", "x"), Call(session="ses_no"))
    assert model.calls == []


async def test_what_goes_on_after_a_crash_is_kept_once(sessions: Sessions) -> None:
    model = Named()
    identity = (await sessions.create("default"))["id"]
    parked = Call(id="apv_1", session=identity, resumed=True)
    for _ in range(2):
        answer = await remembering(sessions, model).complete(ask("large", "hi"), parked)
        assert answer.text == "ok"
    assert len(model.calls) == 1
    assert await texts(sessions, identity) == ["hi", "ok"]


async def test_a_key_s_turn_is_kept_once_though_its_answer_was_lost(sessions: Sessions) -> None:
    """Killed between the session's transaction and the key's, and asked again; at the same time,
    too, by a process that was taken for dead."""
    model = Named()
    identity = (await sessions.create("default"))["id"]
    for _ in range(2):
        named = Call(session=identity, idempotency_key="k")
        await remembering(sessions, model).complete(ask("large", "hi"), named)
    assert len(model.calls) == 1
    turn = [New(user("hi")), New(assistant("ok"), "large", Completion("large", assistant("ok")))]
    assert await sessions.keep(identity, "default", turn, "key k") is None
    await asyncio.gather(*(sessions.keep(identity, "default", turn, "key j") for _ in range(5)))
    assert await texts(sessions, identity) == ["hi", "ok", "hi", "ok"]


async def test_another_model_goes_on_in_the_middle(sessions: Sessions) -> None:
    model = Named()
    identity = (await sessions.create("default"))["id"]
    await sessions.append(identity, "default", [New(one, "large") for one in MESSAGES])
    await remembering(sessions, model).complete(ask("small", "and?"), Call(session=identity))
    said = [message.text for message in model.calls[0].messages]
    assert said == [
        "hi",
        f"see{NO_IMAGE}",
        '[called the tool f with {"a": 1}]',
        "[result of a tool] 42",
        "and?",
    ]
    page = await sessions.page(identity, "default")
    assert [item["model"] for item in page[-2:]] == [None, "small"]


@pytest.mark.parametrize("same", [True, False])
def test_thoughts_go_back_only_to_who_thought_them(same: bool) -> None:
    items = [Item(0, MESSAGES[2], "large")]
    (told,) = carried(items, model="large" if same else "other", tools=True, images=True)
    assert bool(told.reasoning) == same
    assert told.tool_calls == MESSAGES[2].tool_calls


# Too long


async def test_the_oldest_turns_are_summarised_by_a_workforce_model(sessions: Sessions) -> None:
    model = Named("short")
    long = [New(user(f"question {at} " + "word " * 40)) for at in range(20)]
    identity = (await sessions.create("default", "", long))["id"]
    await remembering(sessions, model).complete(ask("small", "and now?"), Call(session=identity))
    *summaries, last = model.calls
    assert summaries
    assert {request.model for request in summaries} == {"small"}
    assert last.messages[0].text.endswith("short")
    assert last.messages[-1].text == "and now?"
    assert summary.tokens(last.messages) < 512
    assert len(await texts(sessions, identity)) == 22  # the originals are kept
    page = await sessions.page(identity, "default")
    assert page[0]["summarised"]
    assert not page[-1]["summarised"]


@pytest.mark.parametrize("name", ["fusion/auto", "fusion/plan"])
async def test_so_they_are_where_it_is_chosen_later_who_answers(
    sessions: Sessions, name: str
) -> None:
    model = Named("short")
    long = [New(user(f"question {at} " + "word " * 400)) for at in range(20)]
    identity = (await sessions.create("default", "", long))["id"]
    await remembering(sessions, model).complete(ask(name, "and now?"), Call(session=identity))
    assert summary.tokens(model.calls[-1].messages) < 8192
    assert len(model.calls) > 1


async def test_a_short_history_before_one_long_message_stays_as_it_is(sessions: Sessions) -> None:
    model = Named()
    for length in (5000, 1100):  # beyond the window, and nearly all of it
        identity = (await sessions.create("default", "", [New(user("hi")), New(user("ho"))]))["id"]
        request = ask("small", "x" * length)
        await remembering(sessions, model).complete(request, Call(session=identity))
    assert len(model.calls) == 2


@dataclass
class Narrow(Named):
    """It says that it is too long from a few messages on, whatever was counted before."""

    async def complete(self, request: Request, call: Call) -> Completion:
        if request.model == "large" and len(request.messages) > 12:
            self.calls.append(request)
            raise ContextTooLong("Too long.")
        return await super().complete(request, call)

    async def stream(self, request: Request, call: Call) -> Events:
        if request.model == "large" and len(request.messages) > 12:
            self.calls.append(request)
            raise ContextTooLong("Too long.")
        async for event in super().stream(request, call):
            yield event


@pytest.mark.parametrize("whole", [True, False])
async def test_what_is_too_long_all_the_same_is_tried_once_more_shorter(
    sessions: Sessions, whole: bool
) -> None:
    model = Narrow("short")
    long = [New(user("word " * 200)) for _ in range(19)]
    identity = (await sessions.create("default", "", long))["id"]
    ours, within = remembering(sessions, model), Call(session=identity)
    if whole:
        await ours.complete(ask("large", "hm"), within)
    else:
        _ = [event async for event in ours.stream(ask("large", "hm"), within)]
    lengths = [len(one.messages) for one in model.calls if one.model == "large"]
    assert lengths[0] == 20
    assert len(lengths) == 2
    assert lengths[1] <= 12


def test_no_script_and_no_number_is_far_longer_than_it_is_counted() -> None:
    """Tokens as a tokenizer of 49,000 pieces makes them: a digit is one, such a sign nearly two."""
    for text, true in (("1234.56," * 100, 800), ("天气很好" * 100, 780), ("погода " * 100, 500)):
        assert true / 1.5 < summary.tokens([user(text)]) < 2 * true


async def test_a_summary_is_made_once(sessions: Sessions) -> None:
    model = Named("short")
    long = [New(user("word " * 60)) for _ in range(20)]
    asked: list[int] = []
    identity = (await sessions.create("default", "", long))["id"]
    for _ in range(2):
        await remembering(sessions, model).complete(ask("small", "hm"), Call(session=identity))
        asked.append(len(model.calls))
    assert asked[0] > 1
    assert asked[1] == asked[0] + 1


@given(st.lists(st.sampled_from(["user", "assistant", "tool"]), max_size=30), st.integers(0, 200))
def test_a_cut_is_where_a_user_begins(roles: list[Any], budget: int) -> None:
    items = [Item(at, Message(role, (Text("word " * 10),)), None) for at, role in enumerate(roles)]
    at = summary.cut(items, budget)
    assert at == 0 or items[at].message.role == "user"


# previous_response_id


async def test_an_answer_is_gone_on_from_by_its_id(database: Database) -> None:
    memory = StoredAnswers(database, FakeClock(1000.0))
    who = Caller("default")
    answer = Completion("large", assistant("ok"))
    await memory.keep("req_1", (user("hi"),), answer, who)
    await memory.keep("req_1", (user("forged"),), answer, who)
    assert await memory.recall("req_1", who) == (user("hi"), assistant("ok"))
    with pytest.raises(NotFound):
        await memory.recall("req_1", Caller("other"))


async def test_an_answer_is_forgotten_when_it_is_old(database: Database) -> None:
    memory, who = StoredAnswers(database, FakeClock(1000.0)), Caller("default")
    await memory.keep("req_1", (user("hi"),), Completion("large", assistant("ok")), who)
    await sweep(database, 1000.0 + 2 * 86_400 - 1, 2.0)
    assert await memory.recall("req_1", who)
    await sweep(database, 1000.0 + 2 * 86_400, 2.0)
    with pytest.raises(NotFound):
        await memory.recall("req_1", who)


async def test_an_answer_is_forgotten_for_its_own_project_alone(database: Database) -> None:
    memory, who = StoredAnswers(database, FakeClock(1000.0)), Caller("default")
    await memory.keep("req_1", (user("hi"),), Completion("large", assistant("ok")), who)
    with pytest.raises(NotFound):
        await memory.forget("req_1", Caller("other"))
    assert await memory.recall("req_1", who)
    await memory.forget("req_1", who)
    with pytest.raises(NotFound):
        await memory.recall("req_1", who)


async def test_a_turn_that_comes_again_as_a_stream_has_its_tool_calls(sessions: Sessions) -> None:
    identity = (await sessions.create("default"))["id"]
    said = Message(
        "assistant", reasoning=(Reasoning("hm"),), tool_calls=(ToolCall("1", "look", "{}"),)
    )
    model = FakeModel("large", said)
    named = Call(session=identity, idempotency_key="k")
    again = Remembering(model, CATALOG, model, sessions)
    await again.complete(ask("large", "hi"), named)
    events = [event async for event in again.stream(ask("large", "hi"), named)]
    assert len(model.calls) == 1
    assert [type(one).__name__ for one in events] == ["ReasoningDelta", "ToolCallDelta", "Done"]
