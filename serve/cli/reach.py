"""How commands talk to a server: where it is, the key to show, and what went wrong, plainly."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import httpx

from cluster import installation
from models import certificates
from serve.access import secret
from serve.access.keys import operator_key
from serve.access.secret import NoSecret
from serve.cli.common import default_port, fail
from serve.heard import origin, said_wrong
from serve.settings import is_loopback

#: Where commands find the key that they show to the server.
KEY_VARIABLE = "FUSION_API_KEY"


def server_url(url: str | None, port: int | None) -> str:
    """The server that a command talks to."""
    if url:
        return _address(url)
    chosen = port or default_port()
    made = installation.find(chosen)
    return made.url if made else f"http://127.0.0.1:{chosen}"


def _address(url: str) -> str:
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL:
        found = httpx.URL("")
    if found.scheme not in ("http", "https") or not found.host:
        fail(f"'{url}' is no address of a server: write it as http://127.0.0.1:8000", 2)
    return url.rstrip("/")


def get(base: str, path: str, *, also: int | None = None) -> httpx.Response:
    """The answer, or a sentence. A status of `also` is an answer too."""
    with reaching(base), client(base, 10) as server:
        response = server.get(path)
    if response.status_code != also:
        check(response)
    return response


def ask(
    base: str,
    method: str,
    path: str,
    body: Any = None,
    timeout_s: float = 60.0,
    said: Mapping[str, str] | None = None,
) -> Any:
    """The JSON of the answer, or a sentence."""
    with reaching(base), client(base, timeout_s, said) as server:
        response = server.request(method, path, json=body)
    check(response)
    return data_of(response) if response.content else None


@contextmanager
def events(
    base: str, path: str, body: Any, said: Mapping[str, str] | None = None
) -> Iterator[httpx.Response]:
    """A stream of server-sent events, begun. What goes wrong before or in it is a sentence."""
    # The server's heartbeats keep a long wait alive.
    with (
        reaching(base),
        client(base, 60, said) as server,
        server.stream("POST", path, json=body) as response,
    ):
        check(response)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            _stranger(response)
        yield response


def save(base: str, path: str) -> None:
    """Pass what the server sends on to standard output, however long it is."""
    with reaching(base), client(base, 60) as server, server.stream("GET", path) as response:
        check(response)
        for piece in response.iter_bytes():
            sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def client(base: str, timeout_s: float, said: Mapping[str, str] | None = None) -> httpx.Client:
    """HTTP to this server, with the key."""
    return httpx.Client(
        base_url=base,
        headers={**credentials(base), **(said or {})},
        timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 10)),
        verify=certificates.needed(base),
    )


@contextmanager
def reaching(base: str) -> Iterator[None]:
    """Where nobody answers, a sentence that says how to start the server."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        fail(f"No fusion server answers at {base} ({type(error).__name__}). Start it: fusion up")
    except httpx.HTTPError as error:
        fail(f"The connection to {base} ended ({type(error).__name__}).")


def check(response: httpx.Response) -> None:
    """What the server said was wrong, if it did: with status 2 where the input was."""
    if not response.is_success:
        response.read()
        status = 2 if response.status_code == 400 else 1
        fail(said_wrong(response), status)


def data_of(response: httpx.Response) -> Any:
    """The JSON of an answer, whatever its status."""
    try:
        return response.json()
    except ValueError:
        check(response)
        _stranger(response)


def _stranger(response: httpx.Response) -> NoReturn:
    fail(f"What answers at {origin(response)} is no fusion server.")


def credentials(base: str) -> dict[str, str]:
    """The key to show to this server: the user's, or the operator's where this user runs it."""
    given = os.environ.get(KEY_VARIABLE)
    if given and not given.isascii():
        fail(f"{KEY_VARIABLE} is no key: it has letters that no key has.", 2)
    address = httpx.URL(base)
    if not given and is_loopback(address.host) and address.port is not None:
        folder = installation.data_folder(address.port)
        if (folder / "secret").is_file():
            with suppress(OSError, NoSecret):
                given = operator_key(secret.read(folder))
    return {"authorization": f"Bearer {given}"} if given else {}
