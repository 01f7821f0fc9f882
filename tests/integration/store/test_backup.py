"""The commands of docs/operations.md for a backup, as they stand there, while calls are booked."""

from __future__ import annotations

import re
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

import postgres
import stores

from serve.money import usage
from serve.store.database import Database

PAGE = Path(__file__).parents[3] / "docs" / "operations.md"


def commands(title: str) -> str:
    """The block of commands under this title."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {title}\n")[2]
    found = re.search(r"```sh\n(.*?)```", section, re.S)
    assert found is not None
    return found[1]


def shell(script: str, path: str | None = None) -> None:
    env = {"PATH": f"{path}:/usr/bin:/bin" if path else "/usr/bin:/bin"}
    done = subprocess.run(["sh", "-euc", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


async def spent(url: str) -> str:
    database = Database(url)
    try:
        answer = await usage.answer(database, usage.Question(), {}, None)
        cost: str = answer["total"]["cost_usd"]
        return cost
    finally:
        await database.close()


async def test_sqlite_is_saved_whole_while_it_is_open_and_restored(tmp_path: Path) -> None:
    live, saved = tmp_path / "live" / "fusion.db", tmp_path / "backup.db"
    save = commands("Backup").partition("# PostgreSQL")[0]
    save = save.replace("python3", shlex.quote(sys.executable), 1)
    save = save.replace("~/.local/share/fusion/8000/fusion.db", str(live))
    restore = next(line for line in commands("Restore").splitlines() if line.startswith("cd "))
    restore = restore.replace("~/.local/share/fusion/8000", str(live.parent))
    restore = restore.replace("/PATH/backup.db", str(saved))
    async with stores.empty(f"sqlite:///{live}") as database:
        await stores.spend(database)
        # What was written stands in the WAL, which a plain copy of the file would miss.
        assert live.with_name("fusion.db-wal").stat().st_size > 0
        shell(save.replace("backup.db", str(saved)))
    with sqlite3.connect(live) as broken:
        broken.execute("drop table entries")
    shell(restore)
    assert await spent(f"sqlite:///{live}") == "0.08"


async def test_postgresql_is_saved_and_restored(
    postgresql: postgres.Server, tmp_path: Path
) -> None:
    dump = tmp_path / "backup.dump"
    save = commands("Backup").partition("# PostgreSQL\n")[2]
    restore = next(line for line in commands("Restore").splitlines() if "pg_restore" in line)
    where = f"127.0.0.1 -p {postgresql.port}"

    def told(script: str, name: str) -> str:
        server = f"postgresql://fusion@127.0.0.1:{postgresql.port}"
        script = script.replace("postgresql://USER@HOST", server).replace("-h HOST", f"-h {where}")
        script = script.replace("-U USER", "-U fusion").replace("NAME", name)
        return script.replace("backup.dump", str(dump))

    binaries = str(postgresql.binaries)
    async with stores.empty(postgresql.url) as database:
        await stores.spend(database)
        shell(told(save, "fusion"), binaries)
    shell(told(restore, "restored"), binaries)
    assert await spent(postgresql.url.removesuffix("fusion") + "restored") == "0.08"
