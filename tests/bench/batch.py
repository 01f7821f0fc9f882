"""The batch runner's figures, with fakes that answer at once: rows a second and memory by rows.

    python tests/bench/batch.py [--rows 1000 100000] [--kills 20]

Each run is a process of its own on an empty store. Its memory is the peak above what it had when
it began to work. Then a batch is killed at random moments and resumed until it ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    # This folder goes first of all otherwise, and in it lies another `router`.
    sys.path[:1] = [str(Path(__file__).parents[2])]

from models.answerer import SystemClock
from serve.jobs.batch import Batch, Spec
from serve.jobs.batches import Batches
from serve.jobs.fake import FakeAsker
from serve.jobs.files import Files
from serve.jobs.runner import Runner
from serve.jobs.starter import ENVIRONMENT
from serve.store import migrate
from serve.store.database import Database

#: What a killed runner may have had in flight: the largest window of these short runs.
MOST_IN_FLIGHT = 256


def house(folder: str) -> tuple[Database, Batches, Files]:
    database, clock = Database(f"sqlite:///{folder}/store.db"), SystemClock()
    return database, Batches(database, clock), Files(database, clock)


async def prepare(folder: str, rows: int) -> str:
    database, batches, files = house(folder)
    await migrate.upgrade(database)
    draft = files.draft()
    for number in range(rows):
        line = {"id": f"row-{number}", "prompt": f"Question {number}: what is {number} + 17? " * 8}
        await draft.write(json.dumps(line).encode() + b"\n")
    file = await files.keep(draft, "default", "in.jsonl", "batch")
    batch = await batches.create("default", Spec(file.id, model="fake"))
    await database.close()
    return batch.id


async def look(folder: str, batch: str) -> tuple[Batch, list[str]]:
    database, batches, _ = house(folder)
    found, names, last = await batches.get("default", batch), [], 0
    while page := await batches.results(batch, last, 1000):
        names += [one.id for one in page if one.completion is not None]
        last = page[-1].line
    await database.close()
    return found, names


async def work(folder: str, batch: str, seconds: float) -> None:
    """What a child process does: says how many rows it asked, as it goes."""
    database, batches, files = house(folder)
    await batches.get("default", batch)
    asker = FakeAsker(seconds=seconds)
    if seconds:
        asker.told = lambda asks: os.write(2, b"%d\n" % len(asks))
    else:
        asker.keeps = False
    runner = Runner(batches, files, asker, SystemClock())
    before = _peak()
    began = time.monotonic()
    await runner.run(batch)
    print(json.dumps({"seconds": time.monotonic() - began, "mb": _peak() - before, "all": _peak()}))
    await database.close()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def child(folder: str, batch: str, seconds: float = 0.0) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--work", folder, batch, str(seconds)]
    environment = {**os.environ, **ENVIRONMENT}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def measure(rows: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        batch = asyncio.run(prepare(folder, rows))
        out, said = child(folder, batch).communicate()
        if not out:
            raise SystemExit(said.decode())
        told = json.loads(out)
        ended, names = asyncio.run(look(folder, batch))
        assert ended.state == "completed"
        assert len(set(names)) == rows
        print(
            f"{rows:7} rows  {rows / told['seconds']:8.0f} rows/s  "
            f"peak {told['all']:6.1f} MB, {told['mb']:5.1f} MB above the start"
        )
        return float(told["all"])


def kill(kills: int, rows: int = 8000, seconds: float = 0.1) -> int:
    """SIGKILL at random moments, resumed each time, until it ends. Returns how many rows were
    asked again."""
    spread = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        batch = asyncio.run(prepare(folder, rows))
        asked = killed = 0
        while True:
            process = child(folder, batch, seconds)
            assert process.stderr is not None
            # From its first message on, so that every kill meets rows in flight.
            said = process.stderr.readline()
            if killed < kills and said:
                time.sleep(spread.uniform(0.0, 0.3))
                process.send_signal(signal.SIGKILL)
                killed += 1
            said += process.communicate()[1]
            asked += sum(int(line) for line in said.split() if line.isdigit())
            ended, names = asyncio.run(look(folder, batch))
            if ended.has_ended:
                break
        assert len(names) == len(set(names)) == rows, "not one row an id"
        assert ended.nano_usd == rows * 10, "an answer that was kept was paid twice"
        print(
            f"{killed} kills: {len(names)} answers for {rows} ids, {asked - rows} rows asked again "
            f"({(asked - rows) / max(1, killed):.1f} a kill), {ended.nano_usd // 10} answers paid"
        )
        return asked - rows


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", type=int, default=[1000, 100_000])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        asyncio.run(work(asked.work[0], asked.work[1], float(asked.work[2])))
        return
    peaks = [measure(rows) for rows in asked.rows]
    if len(peaks) > 1:
        print(f"memory of the largest beside the smallest: {peaks[-1] / peaks[0] - 1:+.1%}")
    if asked.kills:
        kill(asked.kills)


if __name__ == "__main__":
    main()
