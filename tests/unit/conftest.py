"""What all unit tests share."""

from __future__ import annotations

import functools
import gc

import typer.main
import typer.testing
from hypothesis import settings

# How long an example takes is the machine's affair: a test is about what comes out.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A runner of commands builds all of them anew each time, which takes longer than most of them.
vars(typer.testing)["_get_command"] = functools.cache(typer.main.get_command)


def pytest_collection_finish() -> None:
    """What was imported stays: without this, looking through it again and again for what may go
    takes a sixth of all the time."""
    gc.collect()
    gc.freeze()
