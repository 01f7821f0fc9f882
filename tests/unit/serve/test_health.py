"""What the health page says of models that run, sleep and are gone."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(
    ("model", "status"),
    [(("HEALTHY", 1), 200), (("HEALTHY", 0), 200), (("UPDATING", 0), 503), (("UNHEALTHY", 0), 503)],
)
def test_a_model_at_zero_by_its_own_rule_can_answer(model: tuple[str, int], status: int) -> None:
    from serve.parts import summary

    assert summary({"Workforce:m": model, "Gateway": ("HEALTHY", 1)}, {})[0] == status
