"""A spot node's notice, asked of a real HTTP server that answers as the clouds' services do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from models.scaling import Cloud, Place, SpotPrice
from models.workforce import notice
from models.workforce.notice import Watch, address

#: Status and text for a path, as the test sets them.
Answers = dict[str, tuple[int, str]]
ACTION = "/latest/meta-data/spot/instance-action"
PREEMPTED = "/computeMetadata/v1/instance/preempted"


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    """What the service answers; it refuses whoever lacks the headers that the real one wants."""
    answers: Answers = {}

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            asked = self.path == "/latest/api/token"
            good = asked and self.headers.get("x-aws-ec2-metadata-token-ttl-seconds")
            self._say(200 if good else 400, "a token")

        def do_GET(self) -> None:
            aws = self.headers.get("x-aws-ec2-metadata-token") == "a token"
            gcp = self.headers.get("metadata-flavor") == "Google"
            if not (aws if self.path.startswith("/latest") else gcp):
                return self._say(401, "")
            return self._say(*answers.get(self.path, (404, "Not Found")))

        def _say(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    at = f"127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{at}")
    monkeypatch.setenv("GCE_METADATA_HOST", at)
    yield answers
    server.shutdown()
    thread.join()
    server.server_close()


def asked(cloud: Cloud, now_s: float = 0.0) -> float | None:
    with httpx.Client(base_url=address(cloud), trust_env=False) as client:
        return notice.CLOUDS[cloud][0](client, now_s)


def test_an_instance_of_ec2_is_told_when_it_ends(metadata: Answers) -> None:
    assert asked("aws") is None
    metadata[ACTION] = 200, json.dumps({"action": "terminate", "time": "2026-12-01T10:02:00Z"})
    now = datetime(2026, 12, 1, 10, 0, 30, tzinfo=UTC).timestamp()
    assert asked("aws", now) == 90.0
    assert asked("aws", now + 900) == 0.0


@pytest.mark.parametrize("text", ["", "soon", "[]", '{"time": 3}', '{"time": "tomorrow"}'])
def test_what_is_no_notice_of_ec2_is_refused(metadata: Answers, text: str) -> None:
    metadata[ACTION] = 200, text
    with pytest.raises(ValueError, match=r"."):
        asked("aws")


def test_an_instance_of_google_has_half_a_minute(metadata: Answers) -> None:
    metadata[PREEMPTED] = 200, "FALSE"
    assert asked("gcp") is None
    metadata[PREEMPTED] = 200, "TRUE"
    assert asked("gcp") == 30.0


def eventually(so: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_node_is_drained_once_and_again_where_that_fails(metadata: Answers) -> None:
    drained: list[float] = []

    def drain(left_s: float) -> None:
        drained.append(left_s)
        if len(drained) == 1:
            raise RuntimeError("Ray does not answer")

    metadata[PREEMPTED] = 200, "FALSE"
    watch = Watch("gcp", drain, look_s=0.01)
    thread = threading.Thread(target=watch.run)
    thread.start()
    time.sleep(0.1)
    assert not drained
    metadata[PREEMPTED] = 200, "TRUE"
    thread.join(5)
    assert not thread.is_alive()
    assert drained == [30.0, 30.0]


def test_where_no_cloud_answers_it_says_so_once_and_goes_on(
    metadata: Answers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notice, "_NOBODY_S", 0.01)
    metadata[PREEMPTED] = 500, ""
    drained: list[float] = []
    watch = Watch("gcp", drained.append, look_s=0.01)
    thread = threading.Thread(target=watch.run)
    thread.start()
    eventually(lambda: bool(caplog.records))
    time.sleep(0.1)
    assert len(caplog.records) == 1
    metadata[PREEMPTED] = 200, "TRUE"
    thread.join(5)
    assert drained == [30.0]


@pytest.mark.parametrize(("cloud", "looks"), [(None, []), ("aws", ["aws"])])
def test_only_a_replica_that_may_get_a_notice_looks(
    cloud: Cloud | None, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(Watch, "start", lambda self: started.append(self._cloud))
    market = SpotPrice(
        usd_per_hour=0.3, mean_life_s=7200, notice_s=120, labels={"market": "spot"}, notice=cloud
    )
    notice.watch(Place("node/spot", 0.3, market.labels, None, market))
    notice.watch(Place("node/on-demand", 1.0, {}))
    assert started == looks
