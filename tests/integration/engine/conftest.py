"""The default catalog on the real engine, for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Server, serving

DEFAULT = Path(__file__).parents[3] / "fusion.yaml"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    text = DEFAULT.read_text(encoding="utf-8")
    with serving(text, tmp_path_factory.mktemp("engine")) as running:
        yield running
