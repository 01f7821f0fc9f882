from __future__ import annotations

from collections.abc import Iterator

import pytest
from doorway import Doorway
from doorway import doorway as open_doorway


@pytest.fixture(scope="package")
def _doorway() -> Iterator[Doorway]:
    with open_doorway() as running:
        yield running


@pytest.fixture
def doorway(_doorway: Doorway) -> Doorway:
    """The gateway on a real server, with a model `m` that says `ok`."""
    _doorway.models.clear()
    _doorway.door.memory = None
    _doorway.says("ok")
    return _doorway
