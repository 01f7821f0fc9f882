"""The router's drift as metrics."""

from __future__ import annotations

from typing import Any

import pytest

from models.fake import FakeClock
from router.gain import GainModel
from router.live import Answered, LiveRouter
from serve.auto import gauges
from serve.auto.mind import Mind
from serve.auto.notebook import Notebook
from serve.store.database import Database


class Shown(dict[str, float]):
    """The values of all gauges, in Ray's place."""

    def Gauge(self, name: str, description: str) -> Any:
        shown = self

        class Gauge:
            def set(self, value: float) -> None:
                shown[name] = value

        assert description
        return Gauge()


async def test_shares_calibration_and_regret_are_shown_once_they_are_known(
    database: Database, weights: GainModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Shown()
    monkeypatch.setattr(gauges, "metrics", shown)
    live, clock = LiveRouter(weights), FakeClock(1_000_000.0)
    mind, made = Mind(live, Notebook(database, clock), clock), gauges.RouterGauges()
    made.show(mind.status())
    assert "fusion_router_regret" not in shown
    live.fold(Answered(clock.now(), 0.1, 100, 30, share=0.25))
    live.fold(Answered(clock.now(), 0.1, 100, 0))  # turned the knob and said no share
    live.health = live.health.judged("small", 1.0, 0.6, 1.0)
    made.show(mind.status())
    assert shown == {
        "fusion_router_flagship_share": 0.15,
        "fusion_router_target_share": 0.25,
        "fusion_router_calibration_error": pytest.approx(0.4),
        "fusion_router_regret": 0.0,
        "fusion_router_explored_usd_today": 0.0,
        "fusion_router_judgements": 1.0,
    }
    assert mind.status()["target_share"] == 0.25
