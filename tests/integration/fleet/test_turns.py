"""Who comes first at a hosted model that has too few places: two callers and a batch at once.

`pytest tests/integration/fleet/test_turns.py -s` prints who was answered when.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from support import Server, fusion, serving

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

# Two at once for 0.4 s each: five answers a second. Ten seconds of work may wait.
EACH_S, PLACES, MOST = 0.4, 2, 50
CATALOG = f"""
models:
  slow: {{engine: fake, cpus: 0.1, reply: "yes", first_token_s: {EACH_S},
         max_ongoing: {PLACES}, max_queued: {MOST}}}
roles: {{judge: slow}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(CATALOG, tmp_path_factory.mktemp("turns")) as running:
        yield running


@dataclass(frozen=True)
class Told:
    """What one request was told, and when, in seconds since all began."""

    who: str
    at_s: float
    status: int
    retry_after_s: int


def key(server: Server, folder: Path, name: str) -> str:
    made = subprocess.check_output(
        fusion("keys", "create", "--name", name, "--port", str(server.port), "--json"),
        env={**os.environ, "XDG_DATA_HOME": str(folder / "data")},
    )
    found: str = json.loads(made)["key"]
    return found


def test_callers_take_turns_a_batch_comes_last_and_who_is_refused_is_told_when(
    server: Server, tmp_path: Path
) -> None:
    keys = {name: key(server, server.log.parent, name) for name in ("much", "little", "batch")}
    began = time.monotonic()

    def ask(who: str) -> Told:
        body = {"model": "slow", "messages": [{"role": "user", "content": "well?"}]}
        answer = httpx.post(
            f"{server.url}/v1/chat/completions",
            json=body,
            timeout=60,
            headers={"authorization": f"Bearer {keys[who]}"},
        )
        retry = int(answer.headers.get("retry-after", 0))
        return Told(who, time.monotonic() - began, answer.status_code, retry)

    source = tmp_path / "in.jsonl"
    rows = (json.dumps({"id": str(n), "prompt": f"question {n}"}) for n in range(400))
    source.write_text("\n".join(rows))
    at = ["--url", server.url, "--json", "--model", "slow", "--detach"]
    environment = {**os.environ, "FUSION_API_KEY": keys["batch"]}
    command = fusion("batch", "submit", str(source), *at)
    batch = json.loads(subprocess.check_output(command, env=environment, cwd=tmp_path))["id"]

    def rows_done() -> int:
        headers = {"authorization": f"Bearer {keys['batch']}"}
        card = httpx.get(f"{server.url}/v1/batches/{batch}", headers=headers, timeout=30).json()
        found: int = card["request_counts"]["completed"]
        return found

    until = time.monotonic() + 60
    while rows_done() < 10:
        assert time.monotonic() < until, "the batch does not begin"
        time.sleep(0.2)
    rows_before = rows_done()
    with ThreadPoolExecutor(100) as pool:
        began = time.monotonic()
        much = [pool.submit(ask, "much") for _ in range(80)]
        # Who is told no is told so at once: from then on there is no room left.
        while not any(f.done() and f.result().status == 429 for f in much):
            assert time.monotonic() < began + 30, "nobody is refused"
            time.sleep(0.05)
        little = [pool.submit(ask, "little") for _ in range(10)]
        told = sorted((f.result() for f in (*much, *little)), key=lambda one: one.at_s)
    rows_beside = rows_done() - rows_before
    answered = [one for one in told if one.status == 200]
    refused = [one for one in told if one.status != 200]
    ended = {one.who: one.at_s for one in answered}
    counts = Counter((one.who, one.status) for one in told)
    print(f"\n{dict(counts)} and {rows_beside} rows of the batch; last answers {ended}")
    print(f"refused: {sorted({(one.who, one.status, one.retry_after_s) for one in refused})}")
    assert counts["little", 200] == 10, "there is room for who asks little"
    assert counts["much", 200] >= MOST
    assert {one.status for one in refused} == {429}
    # In turns: ten of the one are through when about ten of the other are.
    assert ended["little"] < 0.6 * ended["much"]
    # The places were theirs, although the batch had its rows waiting before: it got what was left
    # over at the beginning and at the end.
    assert rows_beside < 0.25 * len(answered)
    # Who comes back when told finds no queue, and is not kept away for much longer than that.
    for one in refused:
        through_in_s = ended["much"] - one.at_s
        assert 0.5 * through_in_s < one.retry_after_s < 2 * through_in_s
