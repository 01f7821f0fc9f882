"""A Ray cluster that somebody else started: `fusion up --address`. Reached by its dashboard's API.

Nothing is started or stopped there but applications of Serve, and none but ours, which are known by
the code that they import and not by their names. Its nodes must have this program installed as this
machine has it, and run Python and Ray of the same versions.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from cluster import serving
from cluster.launch import LaunchError, api

#: What our applications import. Nobody else's packages are called so where ours are installed.
_OURS = ("serve.app:", "models.workforce.app:")
_POLL_S = 0.5
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


def deploy(made: Existing, applications: Sequence[Mapping[str, Any]]) -> None:
    """Hand these to Serve beside what others have there, and in place of earlier ones of ours.

    Raises LaunchError where they would take a name, a path or a port that is taken.
    """
    told = _details(made)
    others = _others(told)
    names = {one["name"] for one in applications}
    for name, one in others.items():
        if name in names or one.get("route_prefix") == "/":
            raise LaunchError(
                f"The cluster at {made.dashboard} has an application '{name}' of somebody else's "
                f"at {one.get('route_prefix')}: ours would take its place. Nothing was changed."
            )
    port = (told.get("http_options") or {}).get("port", made.port)
    if port != made.port:
        raise LaunchError(
            f"Serve runs on the cluster at {made.dashboard} already, and listens on port {port}: "
            f"give --port {port}. Nothing was changed."
        )
    ours = [{**one, "logging_config": serving.LOGGING} for one in applications]
    serving.deploy(made, [*_entries(others), *ours])


def end(made: Existing, within_s: float = 60.0) -> tuple[list[str], list[str]]:
    """Take our applications off: the names of all of them, and of those that after `within_s` still
    finish what they have begun. What others have there is handed over again as it is."""
    told = _details(made)
    others = _others(told)
    ours = sorted(set(told.get("applications", {})) - set(others))
    left = list(ours)
    if ours:
        serving.deploy(made, _entries(others))
    until = time.monotonic() + within_s
    while left:
        there = _details(made).get("applications", {})
        left = [name for name in left if name in there]
        if time.monotonic() >= until:
            break
        time.sleep(_POLL_S if left else 0.0)
    return ours, left


def _details(made: Existing) -> dict[str, Any]:
    try:
        return serving.details(made)
    except (httpx.HTTPError, ValueError) as error:
        raise LaunchError(
            f"The cluster at {made.dashboard} does not say what it serves ({type(error).__name__})."
        ) from None


def _others(told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Applications that are not ours. One that was started from a program has no entry."""
    return {
        name: one
        for name, one in told.get("applications", {}).items()
        if not str((one.get("deployed_app_config") or {}).get("import_path")).startswith(_OURS)
    }


def _entries(applications: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """As they were handed to Serve. What has no entry was not, and so is not ended either."""
    found = [one.get("deployed_app_config") for one in applications.values()]
    return [entry for entry in found if entry]
