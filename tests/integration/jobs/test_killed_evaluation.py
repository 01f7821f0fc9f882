"""`fusion eval` that is killed at random moments, and twice the server with it, which works on its
questions: each time the same command goes on."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # This folder goes first of all otherwise.
    sys.path[:1] = [str(Path(__file__).parents[3]), str(Path(__file__).parents[2])]

import batch_server
import httpx
from support import free_port, fusion

from models.answerer import SystemClock
from models.messages import Completion, Stage, Usage, assistant
from serve.jobs.asking import Ask
from serve.jobs.batches import Batches
from serve.jobs.fake import FakeAsker
from serve.store.database import Database

ROWS, SAMPLE = 240, 5
KILLS = 5
#: At which of them the server is killed too.
ALL_KILLED = (1, 3)


class Place:
    """A server in a process of its own. Each question that is answered is a line of its log."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.log = folder / "answered"
        self.log.touch()
        self.url = f"http://127.0.0.1:{self.port}"
        self.begin()

    def begin(self) -> None:
        command = [sys.executable, __file__, str(self.folder), str(self.port), str(self.log)]
        self.process = subprocess.Popen(command)
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                httpx.get(f"{self.url}/v1/models")
                return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise AssertionError("the server does not start")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def answered(self) -> list[int]:
        return [int(line) for line in self.log.read_text().split()]

    async def kept(self) -> set[int]:
        """The questions whose answers stand in the store."""
        database = Database(f"sqlite:///{self.folder}/store.db")
        batches, found = Batches(database, SystemClock()), set()
        for batch in (await batches.page("default", None, 100))[0]:
            last = 0
            while page := await batches.results(batch.id, last, 1000):
                found |= {int(row.id.split("/")[1]) for row in page if row.completion is not None}
                last = page[-1].line
        await database.close()
        return found


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    made = Place(folder)
    try:
        yield made
    finally:
        made.end()


def test_a_killed_evaluation_goes_on_and_pays_for_nothing_twice(tmp_path: Path) -> None:
    lines = [
        {"id": n, "question": f"What is {n} - {n - 1}?", "kind": "number", "answer": 1}
        for n in range(ROWS)
    ]
    questions, systems = tmp_path / "questions.jsonl", tmp_path / "systems.yaml"
    questions.write_text("\n".join(map(json.dumps, lines)))
    systems.write_text("systems: {one: {model: one}}")
    spread = random.Random(11)
    with place(tmp_path) as server:
        words = ["eval", str(questions), "--systems", str(systems), "--url", server.url, "--json"]
        kept: list[tuple[int, set[int]]] = []
        for kill in range(KILLS):
            before = len(server.answered())
            process = subprocess.Popen(
                fusion(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            # So that every kill meets questions under way.
            while len(server.answered()) < before + 5 and process.poll() is None:
                time.sleep(0.02)
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(spread.uniform(0.0, 1.0))
            process.kill()
            process.wait()
            if kill in ALL_KILLED:
                server.end()
                kept.append((len(server.answered()), asyncio.run(server.kept())))
                server.begin()
        done = subprocess.run(fusion(*words), capture_output=True, check=True)
        answered = server.answered()
    told: dict[str, Any] = json.loads(done.stdout)
    [one] = told["systems"]
    assert (one["tasks"], one["score"]["value"]) == (ROWS, 1.0)
    assert set(answered) == set(range(ROWS))
    for until, those in kept:
        assert those, "nothing was kept"
        assert not those & set(answered[until:]), "an answer that was kept was asked for again"
    print(f"{len(answered)} answers for {ROWS} questions, {len(ALL_KILLED)} kills of the server")
    # The sample was paid for by itself, each other answer that was kept once.
    assert told["spent_usd"] == f"{(ROWS - SAMPLE) / 1000:g}"


def main() -> None:
    """The server of the test: FOLDER PORT LOG."""
    log = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND)

    def reply(ask: Ask) -> Completion:
        os.write(log, ask[0].messages[-1].text.split()[2].encode() + b"\n")
        stage = Stage("answer", ask[0].model, Usage(10, 2), nano_usd=1_000_000)
        return Completion(ask[0].model, assistant("Answer: 1"), stages=(stage,))

    asker = FakeAsker(reply, seconds=0.1, room=1, keeps=False)
    batch_server.serve(Path(sys.argv[1]), asker, int(sys.argv[2]))


if __name__ == "__main__":
    main()
