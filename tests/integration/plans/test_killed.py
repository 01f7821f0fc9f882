"""A plan that is killed at random moments, in processes of its own, with no cluster."""

from __future__ import annotations

import pytest
from bench import plans


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_killed_plan_runs_no_finished_subtask_again(seed: int) -> None:
    again = plans.kill(kills=2, seed=seed)
    assert again <= 2 * plans.WIDTH
