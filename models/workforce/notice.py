"""The notice that a spot node is about to be taken back: the node is drained.

Ray then puts nothing more on it, and Serve starts each of its replicas anew elsewhere; the old one
takes nothing more and ends what it has begun. Without a notice a node just dies, and what it had
begun is asked again.

Each replica on such a node looks at its cloud's metadata service, in a thread of its own. On
Kubernetes there is nothing to look at: a node that goes ends its pods, and Ray drains on SIGTERM by
itself. Sources: "Spot Instance interruption notices" in the user guide of Amazon EC2, "Create and
use Spot VMs" in the documentation of Google Compute Engine.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import httpx

from models.scaling import Cloud, Place

log = logging.getLogger(__name__)

#: Seconds between two looks; the shortest notice is half a minute.
LOOK_S = 2.0
#: Where no metadata service answers.
_NOBODY_S = 30.0
_TIMEOUT_S = 2.0
_TOKEN_S = 21_600

#: Asks the cloud: seconds until the node is taken back, or None. Raises httpx.HTTPError and
#: ValueError.
Ask = Callable[[httpx.Client, float], float | None]


def aws(client: httpx.Client, now_s: float) -> float | None:
    """An EC2 spot instance."""
    given = {"x-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_S)}
    token = client.put("/latest/api/token", headers=given)
    token.raise_for_status()
    asked = {"x-aws-ec2-metadata-token": token.text}
    answer = client.get("/latest/meta-data/spot/instance-action", headers=asked)
    if answer.status_code == 404:
        return None
    answer.raise_for_status()
    try:
        at = datetime.fromisoformat(json.loads(answer.text)["time"])
    except (KeyError, TypeError):
        raise ValueError(f"no time in {answer.text[:200]!r}") from None
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now_s)


def gcp(client: httpx.Client, now_s: float) -> float | None:
    """A spot VM of Google Compute Engine, which has half a minute left then."""
    path = "/computeMetadata/v1/instance/preempted"
    answer = client.get(path, headers={"metadata-flavor": "Google"})
    answer.raise_for_status()
    return 30.0 if answer.text.strip() == "TRUE" else None


#: How each is asked, and where: by the variable that the cloud's own tools read, else as always.
CLOUDS: Mapping[Cloud, tuple[Ask, str, str]] = {
    "aws": (aws, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254"),
    "gcp": (gcp, "GCE_METADATA_HOST", "metadata.google.internal"),
}


def address(cloud: Cloud, environment: Mapping[str, str] = os.environ) -> str:
    """Where the metadata service of this cloud answers."""
    _, variable, usual = CLOUDS[cloud]
    found = environment.get(variable, usual)
    return found if "://" in found else f"http://{found}"


class Watch:
    """Looks until there is a notice, and then calls `drain` once with the seconds that are left."""

    def __init__(
        self, cloud: Cloud, drain: Callable[[float], None], *, look_s: float = LOOK_S
    ) -> None:
        self._ask = CLOUDS[cloud][0]
        self._address = address(cloud)
        self._cloud = cloud
        self._drain = drain
        self._look_s = look_s
        self._over = threading.Event()

    def start(self) -> None:
        """In a thread that ends with the process."""
        threading.Thread(target=self.run, name="spot notice", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def run(self) -> None:
        """Until the notice was carried out, or `stop`."""
        wait_s, told = 0.0, False
        # Never through a proxy: the address means this very machine.
        with httpx.Client(base_url=self._address, timeout=_TIMEOUT_S, trust_env=False) as client:
            while not self._over.wait(wait_s):
                try:
                    left_s = self._ask(client, time.time())
                except (httpx.HTTPError, ValueError) as error:
                    wait_s = max(_NOBODY_S, self._look_s)
                    if not told:
                        told = True
                        log.warning("no notices of %s: %s does not say", self._cloud, error)
                    continue
                wait_s = self._look_s
                if left_s is None:
                    continue
                try:
                    self._drain(left_s)
                except Exception:  # Ray's own; it is tried again while there is time
                    log.exception("the node could not be drained")
                    continue
                return


def watch(place: Place) -> None:
    """Look for the notice of the node that a replica in this place runs on, if it may get one."""
    if place.market is not None and place.market.notice is not None:
        Watch(place.market.notice, drain_this_node).start()


def drain_this_node(left_s: float) -> None:
    """Tell Ray that this replica's node goes in so many seconds. Raises what Ray raises."""
    import ray
    from ray._private.worker import global_worker
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    # As `ray drain-node` does; Ray has no other way.
    accepted, why = global_worker.gcs_client.drain_node(
        ray.get_runtime_context().get_node_id(),
        DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION,
        "The market takes this spot node back.",
        int((time.time() + left_s) * 1000),
    )
    if not accepted:
        raise RuntimeError(f"Ray does not drain the node: {why}")
    log.warning("this spot node is taken back in %.0f s: it is drained", left_s)
