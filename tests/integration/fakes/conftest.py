"""One real cluster of fake models for all tests of this folder: real Ray, Serve and HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import Server, serving

CATALOG = """
server: {max_body_mb: 2, judges: 2}
models:
  echo: {engine: fake, cpus: 0.1, context: 1024, max_output: 64, price: {input: 1, output: 2}}
  twin: {engine: fake, cpus: 0.1, replicas: 2, reply: "{pid}", first_token_s: 1.0}
  drip: {engine: fake, cpus: 0.1, replicas: 2, reply: "1 2 3 4 5 6 7 8 {pid}", token_s: 0.5}
  narrow: {engine: fake, cpus: 0.1, max_ongoing: 1, max_queued: 2, first_token_s: 1.0}
  seat: {engine: fake, cpus: 0.1, max_ongoing: 1, max_queued: 0, first_token_s: 1.0}
  single: {engine: fake, cpus: 0.1, max_ongoing: 1, reply: "a b c d e f", token_s: 2}
  left: {engine: fake, cpus: 0.1, reply: "planted-left"}
  right: {engine: fake, cpus: 0.1, reply: "planted-right"}
  unreachable: {engine: openai, base_url: "http://127.0.0.1:9/v1", max_concurrent: 4}
aliases: {default: echo, brain: echo}
panels:
  default: {members: [left, right]}
  limping: {members: [left, unreachable]}
  dead: {members: [unreachable, unreachable]}
  itself: {members: [left], self: 2}
  best: {members: [left, right], answer: best_of}
roles: {judge: brain}
router: {explore: 0}
"""


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(CATALOG, tmp_path_factory.mktemp("fakes")) as running:
        yield running
