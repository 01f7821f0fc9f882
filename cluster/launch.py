"""Starts the cluster on this machine, and stops it again.

Ray is steered from outside, through its command line and the dashboard's REST API: the launcher
imports no Ray, joins no cluster, and so can neither ship the user's folder to it nor be hurt by
it. `cluster.serving` puts applications on it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import httpx

from cluster import guardian, installation
from cluster.installation import Installation
from models import certificates

#: Called with one line for people, whenever something begins or changes.
Report = Callable[[str], None]

_RAY_START_S = 120.0
_POLL_S = 0.5


class Reached(Protocol):
    """A Ray cluster that can be asked: an `Installation`, or `cluster.existing.Existing`."""

    @property
    def dashboard(self) -> str: ...

    @property
    def token(self) -> str: ...

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def url(self) -> str: ...

    @property
    def marker(self) -> str | None:
        """What its processes on this machine carry; None where it is not ours."""
        ...


class LaunchError(Exception):
    """The cluster could not be started; the message is for people and says what to do."""


@contextmanager
def head(host: str, port: int, cpus: float, report: Report) -> Iterator[Installation]:
    """A running Ray head of an own installation. Leaving the block leaves no process.

    Raises LaunchError if the port is taken. What a crash left on it is cleared first.
    """
    with installation.claim(port) as ours:
        if not ours:
            raise _taken(host, port, "another fusion cluster")
        _clear(port)
        _check_free(host, port)
        try:
            made = installation.create(host, port)
        except OSError as error:
            raise LaunchError(f"The installation cannot be set up: {error}") from None
        with _guarded(made):
            report("Starting Ray")
            _start_ray(made, cpus)
            yield made


def _taken(host: str, port: int, whose: str) -> LaunchError:
    return LaunchError(
        f"Port {port} on {host} is taken by {whose}. "
        "Choose another with --port, or set server.port in the catalog."
    )


def check_port(host: str, port: int) -> None:
    """Raise LaunchError if `head` would find the port taken now."""
    if installation.is_held(port):
        raise _taken(host, port, "another fusion cluster")
    _clear(port)
    _check_free(host, port)


def _check_free(host: str, port: int) -> None:
    try:
        free = installation.port_is_free(host, port)
    except OSError as error:
        raise LaunchError(
            f"Nobody can listen on port {port} of {host} here ({error.strerror}). "
            "Choose others with --host and --port, or in the catalog's server section."
        ) from None
    if not free:
        raise _taken(host, port, "another program")


def _clear(port: int) -> None:
    """End what a crashed installation left. Only for who holds the port, or finds nobody does."""
    old = installation.find(port)
    if old is not None:
        guardian.sweep(old.marker)
        old.forget()


@contextmanager
def _guarded(made: Installation) -> Iterator[None]:
    """Whatever of this installation runs ends with the block, or with this process."""
    # The guardian must not carry the marker: it would be asked to stop itself.
    watcher = subprocess.Popen(
        [sys.executable, "-m", "cluster.guardian", made.marker],
        stdin=subprocess.PIPE,
        cwd=made.folder,
        start_new_session=True,
    )
    try:
        yield
    finally:
        # Interruptions must not interrupt the clean-up; it has an end of its own.
        ignored = {name: signal.signal(name, signal.SIG_IGN) for name in _STOPPING}
        assert watcher.stdin is not None
        watcher.stdin.close()
        watcher.wait()
        # Should somebody have killed the guardian.
        guardian.sweep(made.marker)
        made.forget()
        for name, handler in ignored.items():
            signal.signal(name, handler)


_STOPPING = (signal.SIGINT, signal.SIGTERM)


def _start_ray(made: Installation, cpus: float) -> None:
    with (made.folder / "ray.log").open("wb") as log:
        process = subprocess.Popen(
            _ray_command(made, cpus),
            env={**os.environ, **made.environment()},
            cwd=made.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _wait_for_dashboard(made, process)


def running(made: Reached) -> bool:
    """Whether anything of this installation runs; of a cluster of others, that is for them."""
    return made.marker is None or bool(guardian.members(made.marker))


def stop(made: Installation, timeout_s: float = 20.0) -> bool:
    """Stop an installation from another process. True when nothing of it is left."""
    if not installation.is_held(made.port):
        # Its `fusion up` crashed, and its number may be somebody else's by now.
        made.forget()
        return not guardian.sweep(made.marker)
    os.kill(made.pid, signal.SIGTERM)
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if not installation.is_held(made.port) and not running(made):
            return True
        time.sleep(0.1)
    return not guardian.sweep(made.marker)


def _ray_command(made: Installation, cpus: float) -> list[str]:
    ports = made.ports
    flags = {
        "node-ip-address": "127.0.0.1",
        "port": ports["gcs"],
        "node-manager-port": ports["node_manager"],
        "object-manager-port": ports["object_manager"],
        "min-worker-port": 0,
        "max-worker-port": 0,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": ports["dashboard"],
        "dashboard-agent-listen-port": ports["dashboard_agent"],
        "dashboard-agent-grpc-port": ports["dashboard_agent_grpc"],
        "runtime-env-agent-port": ports["runtime_env_agent"],
        "metrics-export-port": ports["metrics_agent"],
        "ray-client-server-port": ports["ray_client"],
        "temp-dir": made.temp,
        "num-cpus": int(cpus),
        # Answers are small; Ray's default would take a third of the memory.
        "object-store-memory": 200_000_000,
    }
    switches = ["--head", "--block", "--disable-usage-stats"]
    return [
        *(made.python, "-m", "ray.scripts.scripts", "start", *switches),
        *(f"--{name}={value}" for name, value in flags.items()),
    ]


def _wait_for_dashboard(made: Installation, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _RAY_START_S
    with api(made) as client:
        while time.monotonic() < until:
            if process.poll() is not None:
                raise LaunchError(f"Ray did not start: {ended(made)}")
            with suppress(httpx.HTTPError):
                if client.get("/api/version").status_code == 200:
                    return
            time.sleep(_POLL_S)
    raise LaunchError(f"Ray did not start within {_RAY_START_S:.0f} s (see {_log(made)}).")


def _log(made: Installation) -> str:
    return str(made.folder / "ray.log")


def ended(made: Reached) -> str:
    """What Ray said last, and where the rest stands."""
    if not isinstance(made, Installation):
        return f"see the logs of the cluster at {made.dashboard}"
    lines = (made.folder / "ray.log").read_text(errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else 'no output'} (see {_log(made)})"


def api(made: Reached) -> httpx.Client:
    """A client of the dashboard's REST API with this cluster's token."""
    headers = {"authorization": f"Bearer {made.token}"} if made.token else {}
    verify = certificates.needed(made.dashboard)
    return httpx.Client(base_url=made.dashboard, headers=headers, timeout=30.0, verify=verify)
