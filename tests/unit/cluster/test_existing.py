"""A cluster of others, reached by its dashboard: what is said where it cannot be used."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster import existing, serving
from cluster.existing import Existing, reach
from cluster.launch import LaunchError, ended, running

TOKEN = "right"


class Serve:
    """What Serve has of a cluster: its applications, as its dashboard tells of them."""

    def __init__(self, **applications: dict[str, Any]) -> None:
        self.told: dict[str, Any] = {"applications": applications}
        self.configs: list[dict[str, Any]] = []
        #: Looks until what was ended is gone.
        self.ending = 0

    def put(self, config: dict[str, Any]) -> None:
        """As Serve: what came from a config and is in it no more is ended."""
        self.configs.append(config)
        kept = {one["name"] for one in config["applications"]}
        self.gone = {
            name
            for name, one in self.told["applications"].items()
            if one.get("deployed_app_config") and name not in kept
        }

    def look(self) -> dict[str, Any]:
        if self.configs:
            self.ending -= 1
            if self.ending < 0:
                for name in self.gone:
                    self.told["applications"].pop(name, None)
        return self.told


def entry(name: str, path: str, route: str | None = None) -> dict[str, Any]:
    """An application that came from a config."""
    config = {"name": name, "import_path": path, "route_prefix": route}
    return {"route_prefix": route, "deployed_app_config": config}


class Dashboard(BaseHTTPRequestHandler):
    """Wants the token, knows its version, and has a Serve."""

    serve = Serve()

    def do_GET(self) -> None:
        right = self.headers.get("authorization") == f"Bearer {TOKEN}"
        known = self.path in ("/api/version", "/api/serve/applications/")
        self.send_response(200 if right and known else 403)
        self.end_headers()
        if right and self.path == "/api/serve/applications/":
            self.wfile.write(json.dumps(self.serve.look()).encode())

    def do_PUT(self) -> None:
        length = int(self.headers["content-length"])
        self.serve.put(json.loads(self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def dashboard(serve: Serve | None = None) -> Iterator[str]:
    Handler = type("Handler", (Dashboard,), {"serve": serve or Serve()})
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_it_is_reached_with_the_token_of_rays_own_tools(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n", encoding="utf-8")
    with dashboard() as address:
        by_word = reach(address, "127.0.0.1", 8000, {"RAY_AUTH_TOKEN": TOKEN})
        by_file = reach(f"http://{address}/", "127.0.0.1", 8000, {"RAY_AUTH_TOKEN_PATH": str(file)})
    assert by_word == by_file
    assert by_word.url == "http://127.0.0.1:8000"
    assert running(by_word), "whether it runs is for others"
    assert by_word.dashboard in ended(by_word)


def test_a_wrong_token_says_which_variables_to_set() -> None:
    with dashboard() as address, pytest.raises(LaunchError, match="RAY_AUTH_TOKEN_PATH"):
        reach(address, "127.0.0.1", 8000, {"RAY_AUTH_TOKEN": "wrong"})


def test_nobody_there_says_what_to_give() -> None:
    with pytest.raises(LaunchError, match="address of its dashboard"):
        reach("127.0.0.1:9", "127.0.0.1", 8000, {})


@contextmanager
def reached(serve: Serve, port: int = 8000) -> Iterator[Existing]:
    with dashboard(serve) as address:
        yield reach(address, "127.0.0.1", port, {"RAY_AUTH_TOKEN": TOKEN})


OURS = [
    {"name": "fusion", "import_path": "serve.app:build", "route_prefix": "/"},
    {"name": "model-new", "import_path": "models.workforce.app:build", "route_prefix": None},
]


def test_ours_come_beside_what_others_have_and_in_place_of_what_we_had() -> None:
    theirs = entry("model-theirs", "their.app:build", "/theirs")
    serve = Serve(
        **{"model-theirs": theirs, "model-old": entry("model-old", "models.workforce.app:build")},
        script={"route_prefix": "/script"},
    )
    with reached(serve) as made:
        existing.deploy(made, OURS)
    [config] = serve.configs
    assert [one["name"] for one in config["applications"]] == [
        "model-theirs",
        "fusion",
        "model-new",
    ]
    assert config["applications"][0] == theirs["deployed_app_config"]
    assert "logging_config" not in config, "how others log is theirs"
    assert all("logging_config" in one for one in config["applications"][1:])
    assert config["proxy_location"] == "HeadOnly"


@pytest.mark.parametrize(
    "there", [entry("fusion", "their.app:build", "/theirs"), entry("x", "x:y", "/")]
)
def test_no_name_and_no_path_of_somebody_elses_is_taken(there: dict[str, Any]) -> None:
    name = there["deployed_app_config"]["name"]
    serve = Serve(**{name: there})
    with reached(serve) as made, pytest.raises(LaunchError, match=f"'{name}' of somebody else"):
        existing.deploy(made, OURS)
    assert serve.configs == []


def test_a_serve_that_listens_elsewhere_says_which_port_to_give() -> None:
    serve = Serve()
    serve.told["http_options"] = {"host": "0.0.0.0", "port": 9000}
    with reached(serve) as made, pytest.raises(LaunchError, match="--port 9000"):
        existing.deploy(made, OURS)
    with reached(serve, 9000) as made:
        existing.deploy(made, OURS)
    assert len(serve.configs) == 1


def test_only_ours_are_ended_and_it_is_waited_for() -> None:
    theirs = entry("model-theirs", "their.app:build", "/theirs")
    serve = Serve(**{"model-theirs": theirs}, **{one["name"]: entry(**_as(one)) for one in OURS})
    serve.ending = 1
    with reached(serve) as made:
        assert existing.end(made) == (["fusion", "model-new"], [])
    assert serve.configs[0]["applications"] == [theirs["deployed_app_config"]]
    assert list(serve.told["applications"]) == ["model-theirs"]


def test_what_still_finishes_is_told() -> None:
    serve = Serve(fusion=entry(**_as(OURS[0])))
    serve.ending = 1000
    with reached(serve) as made:
        assert existing.end(made, within_s=0.1) == (["fusion"], ["fusion"])


def test_where_nothing_of_ours_runs_nothing_is_changed() -> None:
    serve = Serve(x=entry("x", "x:y"))
    with reached(serve) as made:
        assert existing.end(made) == ([], [])
    assert serve.configs == []


def test_a_cluster_that_dies_meanwhile_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "_SILENT_S", 0.05)
    monkeypatch.setattr(serving, "_POLL_S", 0.01)
    gone = Existing("http://127.0.0.1:9", TOKEN, "127.0.0.1", 8000)
    with pytest.raises(LaunchError, match="logs of the cluster at http://127"):
        serving.wait_until_running(gone, ["fusion"], print)


def _as(one: dict[str, Any]) -> dict[str, Any]:
    return {"name": one["name"], "path": one["import_path"], "route": one["route_prefix"]}
