"""The official client's batch calls against our face, as its documentation writes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from batch_site import CATALOG, batch_site
from starlette.requests import HTTPConnection

from models.answerer import SystemClock
from models.errors import Unavailable
from models.fake import FakeModel
from serve.access.caller import Caller
from serve.editions.edition import Edition, Fixed
from serve.jobs import files as limits
from serve.jobs.asking import Desk
from serve.jobs.fake import FakeAsker
from serve.jobs.starter import Inline

if TYPE_CHECKING:
    from conftest import House
    from openai.types import Batch


def line(name: str, prompt: str = "hello", **body: Any) -> str:
    whole = {"model": "m", "messages": [{"role": "user", "content": prompt}]} | body
    return json.dumps(
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": whole}
    )


@dataclass
class Face:
    """Our HTTP face with the batches of a house behind it."""

    house: House
    jobs: Inline
    who: Caller = field(default_factory=Caller)

    @property
    def client(self) -> openai.AsyncOpenAI:
        async def guard(_: HTTPConnection) -> Caller:
            return self.who

        app = batch_site(self.house.batches, self.house.files, self.jobs, guard)
        transport = httpx.ASGITransport(app=app)
        return openai.AsyncOpenAI(
            base_url="http://face/v1",
            api_key="none",
            max_retries=0,
            http_client=httpx.AsyncClient(transport=transport),
        )

    async def submit(self, *lines: str, **options: Any) -> Batch:
        file = await self.client.files.create(
            file=("in.jsonl", "\n".join(lines).encode()), purpose="batch"
        )
        return await self.client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            **options,
        )

    async def ended(self) -> None:
        await asyncio.gather(*self.jobs.tasks.values())


@pytest.fixture
async def face(house: House) -> AsyncIterator[Face]:
    made = Face(house, Inline(house.runner))
    yield made
    await made.ended()


async def test_a_batch_from_upload_to_output(face: Face) -> None:
    client = face.client
    made = await face.submit(line("a", "say one"), line("b", "say two"), metadata={"night": "1"})
    assert (made.object, made.metadata) == ("batch", {"night": "1"})
    await face.ended()
    batch = await client.batches.retrieve(made.id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 2, "completed": 2, "failed": 0}
    assert batch.completed_at is not None
    assert batch.error_file_id is None
    assert batch.output_file_id is not None
    text = (await client.files.content(batch.output_file_id)).text
    answers = {one["custom_id"]: one["response"]["body"] for one in map(json.loads, text.split())}
    assert answers["b"]["choices"][0]["message"]["content"] == "two"
    assert answers["b"]["usage"]["total_tokens"] == 3
    output = await client.files.retrieve(batch.output_file_id)
    assert (output.purpose, output.bytes) == ("batch_output", len(text.encode()))


async def test_lists_are_gone_through_page_by_page(face: Face) -> None:
    ids = [(await face.submit(line("a"))).id for _ in range(3)]
    assert [batch.id async for batch in face.client.batches.list(limit=2)] == ids[::-1]
    await face.ended()
    names = [file.filename async for file in face.client.files.list(purpose="batch", limit=2)]
    assert names == ["in.jsonl"] * 3


async def test_a_broken_line_fails_the_batch_with_its_number(face: Face) -> None:
    made = await face.submit(line("a"), "{oops")
    await face.ended()
    batch = await face.client.batches.retrieve(made.id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert batch.errors.data[0].line == 2
    assert "not JSON" in str(batch.errors.data[0].message)


async def test_or_is_reported_where_the_caller_wants_the_rest(face: Face) -> None:
    made = await face.submit(line("a"), "{oops", extra_body={"fusion": {"bad_rows": "report"}})
    await face.ended()
    batch = await face.client.batches.retrieve(made.id)
    assert batch.status == "completed"
    assert batch.error_file_id is not None
    told = json.loads((await face.client.files.content(batch.error_file_id)).text)
    assert (told["custom_id"], told["error"]["code"]) == ("line 2", "invalid_request")


async def test_cancel_stops_it_and_resume_goes_on(face: Face) -> None:
    asker = face.house.asker = FakeAsker(seconds=0.02, room=1)
    begun = asyncio.Event()
    asker.told = lambda _: begun.set()
    made = await face.submit(*[line(f"r{n}", f"say {n}") for n in range(600)])
    await begun.wait()
    cancelling = await face.client.batches.cancel(made.id)
    assert cancelling.status in ("cancelling", "cancelled")
    await face.ended()
    batch = await face.client.batches.retrieve(made.id)
    assert batch.status == "cancelled"
    assert batch.request_counts is not None
    assert batch.request_counts.completed < 600
    asker.seconds = 0
    await face.client.post(f"/batches/{made.id}/resume", cast_to=object)
    await face.ended()
    again = await face.client.batches.retrieve(made.id)
    assert again.status == "completed"
    assert again.request_counts is not None
    assert again.request_counts.completed == 600
    assert len(asker.asked) == 600


async def test_files_are_shown_and_deleted(face: Face) -> None:
    client = face.client
    file = await client.files.create(file=("a.jsonl", b"one\n"), purpose="batch")
    assert (await client.files.content(file.id)).content == b"one\n"
    assert (await client.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(file.id)


async def test_an_input_that_a_batch_reads_is_not_deleted_under_it(face: Face) -> None:
    face.house.asker = FakeAsker(seconds=0.05)
    made = await face.submit(line("a"))
    with pytest.raises(openai.ConflictError, match=made.id):
        await face.client.files.delete(made.input_file_id)
    await face.ended()
    assert (await face.client.files.delete(made.input_file_id)).deleted
    with pytest.raises(openai.APIStatusError, match="There is no file"):
        await face.client.post(f"/batches/{made.id}/resume", cast_to=object)


async def test_the_output_may_expire(face: Face) -> None:
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    made = await face.submit(line("a"), output_expires_after=expiry)
    await face.ended()
    batch = await face.client.batches.retrieve(made.id)
    assert batch.output_file_id is not None
    output = await face.client.files.retrieve(batch.output_file_id)
    assert output.expires_at == output.created_at + 3600


async def test_a_batch_that_cannot_begin_leaves_nothing(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(_: str) -> str:
        raise Unavailable("Ray's jobs do not answer.")

    monkeypatch.setattr(face.jobs, "start", nobody)
    with pytest.raises(openai.InternalServerError):
        await face.submit(line("a"))
    assert [batch.id async for batch in face.client.batches.list()] == []


async def test_a_file_may_expire(face: Face) -> None:
    file = await face.client.files.create(
        file=("a.jsonl", b"one\n"),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.expires_at == file.created_at + 3600


async def test_another_project_sees_nothing(face: Face) -> None:
    made = await face.submit(line("a"))
    await face.ended()
    face.who = Caller(project="other")
    client = face.client
    for ask in (
        client.batches.retrieve(made.id),
        client.batches.cancel(made.id),
        client.files.content(made.input_file_id),
        client.files.delete(made.input_file_id),
        client.batches.create(
            input_file_id=made.input_file_id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
        ),
    ):
        with pytest.raises(openai.NotFoundError):
            await ask
    assert [batch.id async for batch in client.batches.list()] == []


async def test_a_key_for_some_models_has_the_others_rows_refused(face: Face) -> None:
    face.who = Caller(models=("a",))
    made = await face.submit(line("a", model="a"), line("b", model="m"))
    await face.ended()
    batch = await face.client.batches.retrieve(made.id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert "may not use 'm'" in str(batch.errors.data[0].message)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"endpoint": "/v1/embeddings"}, "'endpoint'"),
        ({"completion_window": "soon"}, "is not a time"),
        ({"completion_window": "9" * 5000 + "h"}, "is not a time"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, "seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "anchor"),
        ({"input_file_id": "file_none"}, "There is no file"),
        ({"extra_body": {"fusion": {"model": "nobody"}}}, "No model, alias or panel"),
        ({"extra_body": {"fusion": {"budget_usd": -1}}}, "budget_usd"),
        ({"extra_body": {"fusion": {"hurry": True}}}, "hurry"),
    ],
)
async def test_what_cannot_be_is_refused_at_once(
    face: Face, changes: dict[str, Any], said: str
) -> None:
    file = await face.client.files.create(file=("a.jsonl", b"{}\n"), purpose="batch")
    asked: dict[str, Any] = {
        "input_file_id": file.id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    with pytest.raises(openai.APIStatusError, match=said):
        await face.client.batches.create(**asked | changes)


async def test_a_file_that_is_too_large_leaves_nothing(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PART", 10)
    draft = face.house.files.draft(most=25)
    with pytest.raises(limits.TooLarge):
        for _ in range(3):
            await draft.write(b"x" * 10)
    await face.house.files.discard(draft)
    assert [part async for part in face.house.files.content(draft.id)] == []


async def test_low_priority_waits_behind_people(house: House) -> None:
    waiting = 1
    model = FakeModel(first_token_s=0.01)
    desk = Desk(Fixed(Edition(CATALOG, model, model)), lambda: waiting, SystemClock().now)
    most = 0

    async def look() -> None:
        nonlocal most
        while True:
            most = max(most, desk.behind)
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    await _collect(house)
    replies = await desk.ask_many(house.asker.asked)
    looking.cancel()
    assert len(replies) == 12
    assert most == 4


async def _collect(house: House) -> None:
    """Twelve asks of low priority, as a runner makes them."""
    house.asker = FakeAsker()
    lines = [{"id": str(n), "prompt": f"say {n}"} for n in range(12)]
    await house.run(await house.create(*lines))
