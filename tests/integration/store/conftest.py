"""Empty stores on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest


@pytest.fixture(scope="package")
def postgresql() -> Iterator[postgres.Server]:
    binaries = postgres.programs()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with postgres.server(binaries) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store, on each database in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/fusion.db"
    url: str = request.getfixturevalue("postgresql").url
    return url
