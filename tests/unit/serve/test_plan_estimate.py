"""What a plan costs, before it is begun: by hand, and that what happens lies within."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from models.catalog import Catalog
from serve.plans.estimate import Estimate, Span, estimate
from serve.plans.graph import MOST_ITEMS, parse

CATALOG = Catalog.model_validate(
    {
        "models": {
            "small": {"engine": "fake", "price": {"input": 1, "output": 2}, "max_output": 500},
            "large": {"engine": "fake", "price": {"input": 10, "output": 20}, "max_output": 5000},
            "free": {"engine": "openai", "upstream": "nobody-knows"},
        },
        "panels": {"two": {"members": ["small", "large"], "judge": "large"}},
        "roles": {"judge": "large"},
    }
)


def subtask(name: str, *needs: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "kind": "write", "task": f"do {name}", "needs": list(needs), **more}


def of(subtasks: list[dict[str, Any]], by: str | dict[str, str], writer: str = "small") -> Estimate:
    graph = parse({"subtasks": subtasks})
    names = by if isinstance(by, dict) else {one.id: by for one in graph.subtasks}
    return estimate(graph, "Build it.", names, writer, CATALOG)


def test_one_step_by_hand() -> None:
    found = of([subtask("a", max_tokens=100)], "small")
    # The writer, whose answer is 500 tokens at most, reads the task and the step's.
    reads = (100 + 9 // 4, 100 + 9)
    writer = (reads[0] * 1000 + 500 * 2000, reads[1] * 1000 + 500 * 2000)
    step = (found.nano_usd.low - writer[0], (found.nano_usd.high or 0) - writer[1])
    # A step writes its 100 tokens, which cost 2000 nano-dollars each, and reads its prompt.
    prompt = [(one - 100 * 2000) // 1000 for one in step]
    assert 4 * prompt[0] <= prompt[1] < 4 * prompt[0] + 4
    assert 100 < prompt[1] < 500


def test_the_routers_choice_is_from_the_cheapest_to_the_dearest() -> None:
    one = [subtask("a")]
    free, small, large = (of(one, name) for name in ("fusion/auto", "small", "large"))
    assert free.nano_usd.low == small.nano_usd.low
    assert small.nano_usd.high is not None
    assert large.nano_usd.high is not None
    assert free.nano_usd.high is not None
    assert small.nano_usd.high < large.nano_usd.high == free.nano_usd.high


def test_a_panel_costs_all_of_it() -> None:
    both = of([subtask("a")], "fusion/two").nano_usd
    alone = [of([subtask("a")], name).nano_usd for name in ("small", "large")]
    assert both.low > sum(one.low for one in alone) - of([subtask("a")], {}).nano_usd.low


def test_what_is_done_costs_nothing_more_and_a_list_as_often_as_it_has_items() -> None:
    row = [subtask("a"), subtask("b", "a")]
    assert of(row, {"b": "small"}).nano_usd.low < of(row, "small").nano_usd.low
    fan = [subtask("list", list=True), subtask("each", each="list")]
    flat = [subtask("list", list=True), subtask("each", "list")]
    assert of(fan, "small").nano_usd.low > of(flat, "small").nano_usd.low
    once = (of(flat, "small").nano_usd.high or 0) - (of(flat, {"list": "small"}).nano_usd.high or 0)
    many = (of(fan, "small").nano_usd.high or 0) - (of(fan, {"list": "small"}).nano_usd.high or 0)
    assert many > once * MOST_ITEMS / 2


def test_models_without_a_price_are_named() -> None:
    found = of([subtask("a")], "free")
    assert found.told()["unpriced"] == ["free"]
    assert "unpriced" not in of([subtask("a")], "fusion/auto").told()


@given(st.integers(0, 10**6), st.none() | st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_span_keeps_its_order(low: int, more: int | None, most: int) -> None:
    span = Span(low, None if more is None else low + more)
    for made in (span.within(most), (span + span).within(most), span.times(span).within(most)):
        assert made.high is not None
        assert made.low <= made.high <= most
