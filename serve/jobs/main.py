"""What runs as a Ray job: python -m serve.jobs.main BATCH --store URL"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time

import ray
from ray import serve as ray_serve

from models.answerer import SystemClock
from models.errors import FusionError, Unavailable
from serve.applications import NAME
from serve.control.approvals import Approvals
from serve.control.counters import Counters
from serve.jobs.asker import GatewayAsker
from serve.jobs.batches import Batches, NotOurs
from serve.jobs.files import Files
from serve.jobs.runner import Runner
from serve.money.bank import Bank
from serve.store.database import Database

log = logging.getLogger("serve.jobs")


async def work(batch: str, store: str) -> str:
    """Work through a batch by the gateways of the cluster that we are in."""
    clock, database = SystemClock(), Database(store)
    asker = GatewayAsker(ray_serve.get_deployment_handle("Gateway", app_name=NAME))
    try:
        approvals = Approvals(database, Counters(database), clock)
        batches, files = Batches(database, clock), Files(database, clock)
        bank = Bank(database, clock)
        runner = Runner(batches, files, asker, clock, approvals=approvals, bank=bank)
        ended = await runner.run(batch)
        return (
            f"{ended.state}: {ended.done} of {ended.rows} rows done, {ended.failed} failed, "
            f"{ended.reused} of them reused"
        )
    finally:
        await database.close()


def main() -> None:
    """Exits with 1 where the batch has not ended and wants to be resumed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("batch")
    parser.add_argument("--store", required=True)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    ray.init(address="auto", log_to_driver=False)
    began = time.monotonic()
    try:
        log.info(
            "%s (%.1f s)", asyncio.run(work(asked.batch, asked.store)), time.monotonic() - began
        )
    except NotOurs:
        log.info("another runner has taken this batch over")
    except Unavailable as error:
        raise SystemExit(f"not finished; resume it: {error.message}") from None
    except FusionError as error:
        raise SystemExit(error.message) from None


if __name__ == "__main__":
    main()
