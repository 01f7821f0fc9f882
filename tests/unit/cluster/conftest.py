"""One small profile for all tests of scaling: the form of a real one, with round numbers."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.profile import Profile, parse_profile

CONTENT: dict[str, Any] = {
    "node": {
        "usd_per_hour": 0.8,
        "startup_s": 60,
        "spot": {"usd_per_hour": 0.3, "mean_life_s": 600, "notice_s": 30},
    },
    "replica": {
        "prefill_tokens_per_s": 4000,
        "decode": {"step_base_s": 0.045, "step_per_sequence_s": 0.0009, "max_batch": 8},
    },
    "targets": {"ttft_s": 2.0, "tpot_s": 0.1, "attainment": 0.99},
    "remote": {"usd_per_million_input": 0.3, "usd_per_million_output": 0.3, "ttft_s": 0.6},
    "serve_default_grid": {"target_ongoing_requests": [2, 4], "downscale_delay_s": [60]},
}


@pytest.fixture
def content() -> dict[str, Any]:
    """What a profile file holds; a test may change it."""
    import copy

    return copy.deepcopy(CONTENT)


@pytest.fixture
def profile() -> Profile:
    """That file, read."""
    return parse_profile(CONTENT)
