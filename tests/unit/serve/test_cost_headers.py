from __future__ import annotations

import json

from models.messages import Stage, Usage
from serve.money.headers import headers

PANEL = Stage("panelist", "small", Usage(10, 5, cached=4), nano_usd=1_000)
JUDGE = Stage("judge", "große", Usage(20, 2), nano_usd=5_000)


def test_an_answers_headers_say_what_it_cost_and_which_part_the_brain() -> None:
    told = headers((PANEL, JUDGE))
    assert told["x-fusion-cost-usd"] == "0.000006"
    assert told["x-fusion-brain-cost-usd"] == "0.000005"
    assert told["x-fusion-tokens"] == "input=30, output=7, cached=4"
    assert json.loads(told["x-fusion-stages"])[0] == ["panelist", "small", 10, 5, "0.000001"]
    assert all(value.isascii() for value in told.values())


def test_a_model_without_a_price_makes_the_cost_unknown_and_not_zero() -> None:
    assert "x-fusion-cost-usd" not in headers((PANEL, Stage("judge", "free")))
    assert headers((PANEL, Stage("judge", "free", error="down")))["x-fusion-cost-usd"] == "0.000001"
