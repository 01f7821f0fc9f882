"""Batches behind HTTP as a gateway has them, worked through by whoever a test says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from models.answerer import SystemClock
from models.catalog import Catalog
from models.fake import FakeModel
from serve.access.caller import Caller
from serve.editions.edition import Edition, Fixed
from serve.gateway.rooms.batches import BatchesRoom
from serve.gateway.rooms.files import FilesRoom
from serve.gateway.site import site
from serve.jobs.batches import Batches
from serve.jobs.files import Files
from serve.jobs.starter import Starter

CATALOG = Catalog.model_validate(
    {"models": {"m": {"engine": "fake"}}, "aliases": {"a": "m"}, "roles": {"judge": "m"}}
)


def batch_site(
    batches: Batches,
    files: Files,
    jobs: Starter,
    guard: Callable[[HTTPConnection], Awaitable[Caller]],
) -> Starlette:
    fixed = Fixed(Edition(CATALOG, FakeModel(), FakeModel()))
    return site([FilesRoom(files), BatchesRoom(batches, files, jobs, fixed, SystemClock())], guard)
