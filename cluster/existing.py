"""A Ray cluster that somebody else started: `fusion up --address`. Reached by its dashboard's API.

Nothing is started or stopped there but applications of Serve. Its nodes must have this program
installed as this machine has it, and run Python and Ray of the same versions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from cluster.launch import LaunchError, api

_TOKEN_FILE = "~/.ray/auth_token"  # noqa: S105  where Ray itself looks


@dataclass(frozen=True, slots=True)
class Existing:
    """`dashboard` is the address of its dashboard, `token` what its API asks for, if it does.
    Serve listens on `host` and `port` there."""

    dashboard: str
    token: str
    host: str
    port: int
    #: Nothing there is ours to watch or to end.
    marker: None = None

    @property
    def url(self) -> str:
        """Where it answers, as seen from here: on the host of the dashboard."""
        return f"http://{httpx.URL(self.dashboard).host}:{self.port}"


def reach(address: str, host: str, port: int, environ: Mapping[str, str] = os.environ) -> Existing:
    """The cluster whose dashboard is at `address`: HOST:PORT or a URL.

    The token is that of Ray's own tools: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, or
    ~/.ray/auth_token. Raises LaunchError where nobody answers, or not to us.
    """
    dashboard = address if "://" in address else f"http://{address}"
    made = Existing(dashboard.rstrip("/"), _token(environ), host, port)
    try:
        with api(made) as client:
            status = client.get("/api/version").status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LaunchError(
            f"No Ray cluster answers at {dashboard} ({type(error).__name__}): give the address of "
            "its dashboard, as in --address 127.0.0.1:8265"
        ) from None
    if status in (401, 403):
        raise LaunchError(
            f"The Ray cluster at {dashboard} wants a token: set RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH"
        )
    if status != 200:
        raise LaunchError(f"{dashboard} answers {status}: is it the dashboard of a Ray cluster?")
    return made


def _token(environ: Mapping[str, str]) -> str:
    if token := environ.get("RAY_AUTH_TOKEN"):
        return token
    file = Path(environ.get("RAY_AUTH_TOKEN_PATH") or _TOKEN_FILE).expanduser()
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
