"""What the health page says of models that run, sleep and are gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from models.catalog import Catalog
from models.messages import Request, user
from models.workforce.names import application_name, hosted
from serve.controller import Controller

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(
    ("model", "status"),
    [(("HEALTHY", 1), 200), (("HEALTHY", 0), 200), (("UPDATING", 0), 503), (("UNHEALTHY", 0), 503)],
)
def test_a_model_at_zero_by_its_own_rule_can_answer(model: tuple[str, int], status: int) -> None:
    from serve.parts import summary

    assert summary({"Workforce:m": model, "Gateway": ("HEALTHY", 1)}, {})[0] == status


def test_a_controller_that_does_not_answer_is_told_beside_what_was_seen_last() -> None:
    from serve.parts import summary

    status, told = summary({"Workforce:m": ("HEALTHY", 1)}, {}, now=False)
    assert (status, told["status"], told["controller"]) == (200, "degraded", "does not answer")
    assert told["parts"]["Workforce:m"]["replicas"] == 1
    status, told = summary(None, {}, now=False)
    assert (status, told["status"], told["controller"]) == (503, "down", "does not answer")


@pytest.mark.parametrize(("states", "counted"), [({"RUNNING": 1}, 7), ({"STARTING": 1}, None)])
async def test_a_count_wakes_no_model(states: dict[str, int], counted: int | None) -> None:
    from serve.parts import Parts

    catalog = Catalog.model_validate({"models": {"m": {"engine": "fake"}}, "roles": {"judge": "m"}})
    mine = application_name("m", hosted(catalog)["m"])
    application = SimpleNamespace(deployments={"d": SimpleNamespace(replica_states=states)})

    class Ready(Parts):
        def __init__(self) -> None:
            self._controller = Controller(lambda: {mine: application})

        def _workforce(self, *_: Any) -> Any:
            return SimpleNamespace(count=count)

    async def count(_: Request) -> int:
        return 7

    assert await Ready().count(catalog, Request("m", (user("hi"),))) == counted
