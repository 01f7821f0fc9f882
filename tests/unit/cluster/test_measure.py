"""A model of paper, measured: its rates come out again."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cluster.errors import ProfileError
from cluster.measure import Measured, Timing, batches, fit, line, measure, profile
from cluster.profile import parse_profile


class Paper:
    """Takes 0.1 s and a second for each 2,000 tokens of a prompt, and 20 ms + 1 ms a sequence."""

    def __init__(self) -> None:
        self.at_once = self.most = 0

    async def run(self, words: int, tokens: int) -> Timing:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        step_s = 0.02 + 0.001 * self.at_once
        await asyncio.sleep(0)
        self.at_once -= 1
        return Timing(words, tokens, 0.1 + words / 2000, step_s)


async def test_the_rates_of_a_model_are_found() -> None:
    paper, told = Paper(), list[str]()
    found = await measure(paper.run, 16, 2000, told.append)
    assert found.prefill_tokens_per_s == pytest.approx(2000)
    assert found.step_base_s == pytest.approx(0.02)
    assert found.step_per_sequence_s == pytest.approx(0.001)
    assert paper.most == found.max_batch == 16
    assert len(told) == 4 + 5


async def test_one_disturbed_answer_does_not_decide_and_an_empty_one_is_none() -> None:
    paper, asked = Paper(), list[int]()

    async def disturbed(words: int, tokens: int) -> Timing:
        timing = await paper.run(words, tokens)
        if tokens == 2:
            asked.append(words)
            if asked.count(words) == 1:
                return replace(timing, first_s=9.0 if words == 100 else 0.0)
        return timing

    found = await measure(disturbed, 2, 2000, lambda _: None)
    assert found.prefill_tokens_per_s == pytest.approx(2000)


async def test_a_model_that_says_nothing_is_refused() -> None:
    async def silent(words: int, tokens: int) -> Timing:
        return Timing(words, tokens, 0.0, 0.0)

    with pytest.raises(ProfileError, match="nothing"):
        await measure(silent, 2, 500, lambda _: None)


def test_what_is_written_is_a_profile() -> None:
    found = Measured(3999.96, 0.0451234, 0.00090001, 32)
    read = parse_profile(profile(found, 0.8, 120, 2.0, 0.1))
    assert read.rates().prefill_tokens_per_s == 4000
    assert read.rates().step_base_s == 0.04512
    assert read.rates().step_per_sequence_s == 0.0009


def test_a_model_that_tells_nothing_is_refused() -> None:
    with pytest.raises(ProfileError, match="longer prompts"):
        fit([(100, 0.5), (800, 0.4)], [(1, 0.02)], 1)


async def test_answers_of_one_token_have_no_step() -> None:
    async def short(words: int, tokens: int) -> Timing:
        return Timing(words, 1, words / 1000, 0.0)

    with pytest.raises(ProfileError, match="one token"):
        await measure(short, 2, 500, lambda _: None)


def test_batches_double_and_end_at_the_most() -> None:
    assert list(batches(12)) == [1, 2, 4, 8, 12]
    assert list(batches(1)) == [1]


def test_a_line_through_one_place_is_flat() -> None:
    assert line([(3, 1.0), (3, 2.0)]) == (0.0, 1.5)
    assert line([]) == (0.0, 0.0)
