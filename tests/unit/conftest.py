"""What all unit tests share."""

from __future__ import annotations

import gc

from hypothesis import settings

# How long an example takes is the machine's affair: a test is about what comes out.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """What was imported stays: without this, looking through it again and again for what may go
    takes a sixth of all the time."""
    gc.collect()
    gc.freeze()
