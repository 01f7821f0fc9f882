"""Batches of a server, over HTTP: what the command line and evaluations use."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from models import certificates
from serve.heard import lines, said_wrong
from serve.jobs.batch import ENDED
from serve.jobs.rows import ENDPOINT

_LOOK_S = 0.5
#: A batch of a few rows may be done at once.
_FIRST_LOOK_S = 0.05
#: Time for one piece of an upload or of a download, and for the server to take it in.
_TIMEOUT = httpx.Timeout(120.0, connect=10.0)


class RemoteError(Exception):
    """The server refused, or is not there. The message is for people."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


Card = dict[str, Any]


@dataclass(slots=True)
class _Pieces:
    """A file without its length. What is sent then ends where the file does, also where that is
    not where it was at first."""

    file: BinaryIO

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)


@dataclass(slots=True)
class Remote:
    """The batches of the server at `base`."""

    base: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def upload(self, name: str, content: BinaryIO | bytes | _Pieces) -> str:
        """A file for a batch; returns its id."""
        file: Any = (name, content, "application/jsonl")
        with self._client() as client:
            card = self._ask(
                client, "POST", "/v1/files", files={"file": file}, data={"purpose": "batch"}
            )
        return str(card["id"])

    def upload_file(self, path: Path) -> str:
        """Raises RemoteError where the file changes meanwhile, OSError where it cannot be read."""
        before = _state(path)
        changed = RemoteError(
            f"{path} changed while it was read. Submit it again when it is done.", 400
        )
        try:
            with path.open("rb") as content:
                file = self.upload(path.name, _Pieces(content))
        except RemoteError:
            if _state(path) == before:
                raise
            raise changed from None
        if _state(path) != before:
            self._delete(file)
            raise changed
        return file

    def create(
        self,
        file: str,
        *,
        window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        **ours: Any,
    ) -> Card:
        """Begin a batch of this file, which is deleted where the server refuses that. `ours` are
        the fields of `fusion` that are not None."""
        body = {
            "input_file_id": file,
            "endpoint": ENDPOINT,
            "completion_window": window,
            "metadata": dict(metadata or {}),
            "fusion": {name: value for name, value in ours.items() if value is not None},
        }
        try:
            return self.post("/v1/batches", body)
        except RemoteError as error:
            # One that fails may be asked again, with the same file.
            if error.status is not None and error.status < 500:
                self._delete(file)
            raise

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Card:
        with self._client() as client:
            return self._ask(client, "POST", path, json=body or {})

    def get(self, path: str) -> Card:
        with self._client() as client:
            return self._ask(client, "GET", path)

    def text(self, path: str) -> str:
        with self._client() as client, self._told():
            return self._checked(client.get(path)).text

    def wait(self, batch: str, report: Callable[[Card], None]) -> Card:
        """Look at it until it has ended, or until nobody works on it."""
        pause = _FIRST_LOOK_S
        while True:
            card = self.get(f"/v1/batches/{batch}")
            report(card)
            if card["status"] in ENDED or card["fusion"]["interrupted"]:
                return card
            time.sleep(pause)
            pause = min(2 * pause, _LOOK_S)

    def rows(self, batch: str) -> Iterator[dict[str, Any]]:
        """All rows of a batch, in the order of its input."""
        path = f"/v1/batches/{batch}/rows"
        with self._client() as client, self._told(), client.stream("GET", path) as response:
            if not response.is_success:
                response.read()
                self._checked(response)
            for line in lines(response.iter_bytes()):
                yield json.loads(line)

    def _delete(self, file: str) -> None:
        """Nobody will ask for this file any more."""
        with suppress(RemoteError), self._client() as client:
            self._ask(client, "DELETE", f"/v1/files/{file}")

    def _client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.base,
            headers=dict(self.headers),
            timeout=_TIMEOUT,
            verify=certificates.needed(self.base),
        )

    def _ask(self, client: httpx.Client, method: str, path: str, **options: Any) -> Card:
        with self._told():
            answer: Card = self._checked(client.request(method, path, **options)).json()
        return answer

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise RemoteError(
                f"No fusion server answers at {self.base} ({type(error).__name__}). "
                "Start it: fusion up"
            ) from None

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        raise RemoteError(said_wrong(response), response.status_code)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
