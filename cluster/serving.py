"""Puts applications on a running cluster, through Serve's REST API.

An application is known by its import path only; it is an entry of a Serve config's
`applications`: `name`, `route_prefix`, `import_path`, `args`.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx

from cluster import launch
from cluster.launch import Reached
from models import certificates

_POLL_S = 0.5
#: A cluster of others that has said nothing for so long is gone: nothing else tells.
_SILENT_S = 60.0


#: What replicas write to their logs: a line a request costs more than the rest of the door.
LOGGING = {"log_level": "WARNING", "enable_access_log": False}


def deploy(made: Reached, applications: Sequence[Mapping[str, Any]]) -> None:
    """Hand these applications to Serve: entries of a Serve config. Others that it has are ended.

    Returns when Serve has taken them, not when they are ready.
    """
    config = {
        # A door on a node that comes and goes would take its open connections with it, and no
        # retry of ours can save what it had accepted.
        "proxy_location": "HeadOnly",
        "http_options": {"host": made.host, "port": made.port},
        "applications": list(applications),
    }
    if made.marker is not None:
        # Of a whole Serve; elsewhere others have theirs in it.
        config["logging_config"] = LOGGING
    try:
        with launch.api(made) as client:
            response = client.put("/api/serve/applications/", json=config, timeout=180.0)
    except httpx.HTTPError as error:
        raise launch.LaunchError(
            f"Serve did not take the application ({type(error).__name__}): {launch.ended(made)}"
        ) from None
    if response.status_code != 200:
        why = readable_cause(response.text)
        raise launch.LaunchError(f"Serve did not take the application: {why}")


def deployed(made: Reached) -> dict[str, dict[str, Any]]:
    """The entries that `deploy` handed over, by name."""
    return {
        name: application["deployed_app_config"]
        for name, application in _applications(made).items()
        if application.get("deployed_app_config")
    }


def _applications(made: Reached) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = details(made).get("applications", {})
    return found


def details(made: Reached) -> dict[str, Any]:
    """What Serve says of itself. Raises httpx.HTTPError."""
    with launch.api(made) as client:
        response = client.get("/api/serve/applications/")
    response.raise_for_status()
    found: dict[str, Any] = response.json()
    return found


def wait_until_running(made: Reached, names: Iterable[str], report: launch.Report) -> None:
    """Report what comes up until these applications are. Raises LaunchError with one cause."""
    waited_for, seen = set(names), dict[str, str]()
    answered = time.monotonic()
    while waited_for:
        try:
            applications = _applications(made)
            for name in sorted(waited_for):
                if _followed(made, applications.get(name) or {}, seen, report):
                    waited_for.remove(name)
            answered = time.monotonic()
        except httpx.HTTPError:
            # A machine that loads models may answer late; a cluster that is gone never does.
            silent = made.marker is None and time.monotonic() - answered > _SILENT_S
            if silent or not launch.running(made):
                raise launch.LaunchError(f"Ray ended: {launch.ended(made)}") from None
        if waited_for:
            time.sleep(_POLL_S)


def _followed(
    made: Reached, application: Mapping[str, Any], seen: dict[str, str], report: launch.Report
) -> bool:
    """Report what is new about this application; whether it runs. Raises LaunchError."""
    for part, detail in application.get("deployments", {}).items():
        state = _state(detail)
        if seen.get(part) != state:
            seen[part] = state
            report(f"{part}: {state}")
        # A machine of our own gets no new resources by waiting for them; a cluster may.
        needed = required(detail.get("message", "")) if made.marker is not None else {}
        why = lacking(needed, _all_resources(made)) if needed else None
        if why:
            raise launch.LaunchError(f"{part} cannot start here: {why}")
    if application.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
        raise launch.LaunchError(_failure(application))
    return application.get("status") == "RUNNING"


def wait_until_answering(made: Reached) -> None:
    """Until the door answers. Raises LaunchError."""
    # Serve says running when its replicas are; the proxy learns of them a moment later.
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            verify = certificates.needed(made.url)
            if httpx.get(f"{made.url}/healthz", timeout=5, verify=verify).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise launch.LaunchError(f"The replicas run, but {made.url}/healthz does not answer.")


def _state(detail: dict[str, Any]) -> str:
    state = str(detail["status"])
    return {"HEALTHY": "ready", "UPDATING": "starting"}.get(state, state.lower().replace("_", " "))


def required(message: str) -> dict[str, float]:
    """What a replica reserves that Serve could not place for half a minute; else empty."""
    told = re.search(r"Resources required for each replica: (.+), total resources avail", message)
    try:
        found = json.loads(told[1]) if told else {}
    except ValueError:
        return {}
    needed: Counter[str] = Counter()
    for bundle in found if isinstance(found, list) else [found]:
        needed.update(bundle)
    return dict(needed)


def lacking(needed: Mapping[str, float], there_is: Mapping[str, float]) -> str | None:
    """Why a replica that needs this never starts where there is only that. None: it may."""
    words = [
        f"{amount:g} {name} (there is {there_is.get(name, 0):g})"
        for name, amount in needed.items()
        if amount > there_is.get(name, 0)
    ]
    return f"a replica needs {', '.join(words)}" if words else None


def _all_resources(made: Reached) -> Counter[str]:
    with launch.api(made) as client:
        response = client.get("/api/v0/nodes", params={"detail": 1, "limit": 1000})
    response.raise_for_status()
    total: Counter[str] = Counter()
    for node in response.json()["data"]["result"]["result"]:
        if node["state"] == "ALIVE":
            total.update(node["resources_total"])
    return total


def _failure(application: Mapping[str, Any]) -> str:
    for part, detail in application.get("deployments", {}).items():
        if detail["status"] not in ("HEALTHY", "UPDATING"):
            return f"{part} did not start: {readable_cause(detail.get('message', ''))}"
    return f"The application did not start: {readable_cause(application.get('message', ''))}"


def readable_cause(text: str) -> str:
    """The sentence in a traceback that says what went wrong: its last error line."""
    errors = re.findall(r"^\s*(?:[\w.]+\.)?(\w*(?:Error|Exception|Exit)\w*: .+)$", text, re.M)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    cause = errors[-1] if errors else (lines[-1] if lines else "no reason was given")
    return cause[:1000]
