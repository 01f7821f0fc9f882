"""What a process of the application is started with."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from models.catalog import Catalog
from models.scaling import Fleet


class Settings(BaseModel):
    """Fixed for a run of the cluster; whatever may change while it runs is in the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: What rules where the store says nothing yet.
    catalog: Catalog
    #: The store's address.
    store: str
    #: The address that the door listens on.
    host: str
    #: What the replicas of all models may cost together; Serve's controller keeps to it too.
    fleet: Fleet = Fleet()

    @classmethod
    def of(cls, args: dict[str, Any]) -> Settings:
        """From a Serve config's arguments, of which only `catalog` is required.

        Raises ValueError where neither they nor the catalog name a store.
        """
        catalog = Catalog.model_validate(args["catalog"])
        store = args.get("store") or catalog.server.store
        if store is None:
            raise ValueError(
                "say where the store is: set server.store in the catalog, "
                "to sqlite:////ABSOLUTE/FILE or postgresql://USER@HOST/NAME"
            )
        return cls(
            catalog=catalog,
            store=store,
            host=args.get("host") or catalog.server.host,
            fleet=args.get("fleet") or catalog.fleet,
        )

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the door."""
        return is_loopback(self.host)

    @property
    def folder(self) -> Path | None:
        """The folder of a store in a file, which this machine alone uses."""
        path = self.store.removeprefix("sqlite:///")
        return None if path == self.store else Path(path).expanduser().parent


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
