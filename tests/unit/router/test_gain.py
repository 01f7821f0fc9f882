"""The gain model: known models by what happened, new ones by their prior, odd prompts by means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from router.candidate import Candidate, from_prices, prior_strength
from router.data import DataError, Outcome, Row
from router.forest import Growth
from router.gain import GainModel
from router.store import shipped_model
from router.train import train

KNOWN = [Candidate("small"), Candidate("large")]
HARD, EASY = "What is 31 times 44, plus 12?", "Name a bird, no 31"


def test_the_large_model_gains_most_on_hard_prompts(model: GainModel) -> None:
    found = model.predict([HARD, EASY], KNOWN)
    gain = found.quality[:, 1] - found.quality[:, 0]
    assert gain[0] > gain[1] + 0.3
    assert not found.far.any()


def test_cost_depends_on_the_prompt(model: GainModel) -> None:
    cost = model.predict([HARD, EASY], KNOWN).cost
    assert cost[0, 1] > 1.3 * cost[1, 1]
    assert cost[0, 0] == pytest.approx(0.001, rel=0.05)


def test_a_known_model_under_another_name_and_price(model: GainModel) -> None:
    mine = [Candidate("mine", known_as="large", cost=0.15)]
    found, known = model.predict([HARD], mine), model.predict([HARD], KNOWN[1:])
    assert found.quality == pytest.approx(known.quality)
    assert found.cost[0, 0] > 5 * known.cost[0, 0]


def test_a_new_model_is_placed_by_its_strength(model: GainModel) -> None:
    new = [Candidate(f"new {s}", strength=s, cost=0.01) for s in (0.0, 0.5, 1.0)]
    found = model.predict([HARD], new)
    assert (np.diff(found.quality[0]) > 0).all()
    assert (found.spread >= model.predict([HARD], KNOWN).spread.min()).all()
    assert np.isfinite(found.cost).all()
    assert np.isnan(model.predict([HARD], [Candidate("new")]).cost).all()


def test_who_is_of_another_family_is_placed_by_strength(rows: list[Row]) -> None:
    """Its score there is of other prompts, and not to be compared."""
    elsewhere = [
        replace(row, outcomes={"proud": Outcome(1.0), "humble": Outcome(0.9)}) for row in rows[:60]
    ]
    both = train([*rows, *elsewhere], growth=Growth(trees=4, leaf=5))
    found = both.predict([HARD], [*KNOWN, Candidate("proud", strength=0.0)])
    assert found.guessed == (False, False, True)
    assert found.quality[0, 2] < found.quality[0, 1]


@pytest.mark.parametrize("prompt", ["", "x" * 1_000_000, "这是一个没有空格的句子吗？" * 30])
def test_far_from_what_was_seen_the_means_speak(model: GainModel, prompt: str) -> None:
    found = model.predict([prompt], KNOWN)
    assert found.far.all()
    means = model.plain.families[0].quality
    known = dict(zip(model.plain.families[0].models, means, strict=True))
    assert found.quality[0] == pytest.approx([known["small"], known["large"]], abs=0.15)


def test_costs_that_carry_over_to_unseen_tasks_are_believed_far_off(model: GainModel) -> None:
    found = model.predict(["Name a bird, no 31", "Name a fish, no 31"], KNOWN)
    assert found.distance[0] < 0.6 < 0.9 < found.distance[1]
    assert found.cost[1, 1] == pytest.approx(found.cost[0, 1])


def test_costs_that_do_not_carry_over_go_over_to_the_mean() -> None:
    """Longer questions are of other tasks, and every other task is dear."""
    rows = [
        Row(
            f"{'why ' * (1 + 2 * task)}{number}?",
            {"small": Outcome(0.5, 0.001), "large": Outcome(0.9, 0.02 if task % 2 else 0.01)},
            task=str(task),
        )
        for task in range(12)
        for number in range(20)
    ]
    model = train(rows, growth=Growth(trees=6, leaf=5))
    found = model.predict(["why why why 7?", "Name 31 fish, please."], KNOWN)
    assert found.cost[0, 1] > 0.017
    assert found.far[1]
    assert found.cost[1, 1] == pytest.approx(0.015)


def test_the_same_rows_make_the_same_model(rows: list[Row], model: GainModel) -> None:
    assert model.predict([HARD], KNOWN).quality == pytest.approx(
        model.predict([HARD], KNOWN).quality
    )
    with pytest.raises(DataError, match="no two models"):
        train(rows[:10])


def test_no_candidates_and_no_prompts(model: GainModel) -> None:
    with pytest.raises(ValueError, match="no candidates"):
        model.predict([HARD], [])
    assert model.predict([], KNOWN).quality.shape == (0, 2)


def test_priors_from_price_and_size() -> None:
    assert prior_strength(price=0.01) == 0.0
    assert prior_strength(price=100) == 1.0
    assert prior_strength(price=15) > prior_strength(price=0.6) > prior_strength(price=0.1)
    assert prior_strength(billions=70) > prior_strength(billions=7)
    assert prior_strength() == prior_strength(price=0.0) == 0.5
    assert from_prices("m", 1.0, 10.0).cost == pytest.approx(0.0043)
    assert from_prices("m", None, 10.0).cost is None
    with pytest.raises(ValueError, match="strength"):
        Candidate("m", strength=2)
    with pytest.raises(ValueError, match="cost"):
        Candidate("m", cost=float("nan"))


def test_a_cost_that_another_family_knows_is_better_than_none(rows: list[Row]) -> None:
    free = [
        replace(
            row,
            id=f"free-{row.id}",
            source="free",
            outcomes={name: Outcome(one.score) for name, one in row.outcomes.items()}
            | {"third": Outcome(0.5)},
        )
        for row in rows
    ]
    model = train([*rows, *free], growth=Growth(trees=6, leaf=5))
    for names in (KNOWN, [*KNOWN, Candidate("third", cost=0.5)]):
        assert np.isfinite(model.predict([HARD], names).cost).all()


def test_a_model_that_is_known_by_its_own_name_is_not_taken_for_another_one() -> None:
    shipped = shipped_model()
    for family in shipped.plain.families:
        assert [shipped.recognise(name) for name in family.models] == list(family.models)
    assert shipped.recognise("Meta/Llama-3.1-8B-Instruct") in {
        "llama-3.1-8b-instruct",
        "meta-llama/llama-3.1-8b-instruct",
    }


def test_beside_models_of_a_family_its_spelling_of_a_name_counts() -> None:
    candidates = [
        Candidate("qwen2.5-7b-instruct"),
        Candidate("gemma-2-9b-it"),
        Candidate("llama", known_as="meta-llama/llama-3.1-8b-instruct"),
    ]
    spelt = [*candidates[:2], Candidate("llama", known_as="llama-3.1-8b-instruct")]
    found, wanted = (shipped_model().predict([HARD], each) for each in (candidates, spelt))
    assert found.guessed == (False, False, False)
    assert found.quality == pytest.approx(wanted.quality)
    alone = shipped_model().predict([HARD], candidates[2:])
    assert alone.cost[0, 0] == pytest.approx(
        shipped_model().predict([HARD], [Candidate("meta-llama/llama-3.1-8b-instruct")]).cost[0, 0]
    )
