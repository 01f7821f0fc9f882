"""Statements that cite nothing get the sentence that their words are from, and only that one."""

from __future__ import annotations

import pytest

from serve.evaluation.attribution import attributed, grounded, tidy, without_repeats
from serve.evaluation.evidence import Citation, Stored, check

SOURCES = [
    Stored("a.md", "Bees", "Bees see ultraviolet light and polarised light.\nThey never see red."),
    Stored("b.md", "Birds", "Most birds have 4 kinds of cones. Their eyes do not rest at night."),
]
BEES = "Bees see ultraviolet light and polarised light."


def cited(text: str) -> str:
    return attributed(check(text, SOURCES), SOURCES).text


def test_a_statement_in_a_sources_words_cites_it() -> None:
    report = attributed(
        check("So: bees also see ultraviolet and polarised light. Nice!", SOURCES), SOURCES
    )
    assert report.text == f'So: bees also see ultraviolet and polarised light. [1: "{BEES}"] Nice!'
    assert report.placed == (Citation(1, BEES),)
    assert not report.kept
    again = check(report.text, SOURCES)
    assert [one.quote for one in again.kept] == [BEES]
    assert not again.removed


@pytest.mark.parametrize(
    "text",
    [
        "Cats see well in the dark and like warm places.",
        "Most birds have 3 kinds of cones.",  # another number
        "Most birds never have 4 kinds of cones.",  # the opposite
        "Their eyes rest at night.",  # the opposite too
        "Ultraviolet light.",  # too short to say where from
        f'It is known [1: "{BEES}"]. Bees see ultraviolet light and polarised light.',
        f"# {BEES}",
        f"> {BEES}",
        f"| {BEES} |",
        f"```\n{BEES}\n```",
        "",
    ],
)
def test_what_says_something_else_or_has_a_citation_is_left_alone(text: str) -> None:
    assert cited(text) == text


def test_without_sources_nothing_is_cited() -> None:
    assert attributed(check(BEES, []), []).text == BEES


def test_what_was_said_before_is_left_out_and_counted() -> None:
    loop = "# Bees\n\n" + f"{BEES}\n\n" * 41 + f"Yes. {BEES} Yes. They rest.\n"
    text, repeats = without_repeats(loop)
    assert text == f"# Bees\n\n{BEES}\n\nYes. Yes. They rest.\n"
    assert repeats == 41


def test_a_heading_is_said_once_too() -> None:
    text, repeats = without_repeats("## What bees can see\n\nRed.\n\n## What bees can see\n\nNo.")
    assert (text, repeats) == ("## What bees can see\n\nRed.\n\nNo.", 1)


@pytest.mark.parametrize(
    "text",
    [
        "One.\n\n\n\nOne.",  # nothing is said twice but what is short
        f"```\n{BEES}\n{BEES}\n```",
        f"| {BEES} |\n| {BEES} |",
        f'Bees do [1: "{BEES}"] and\nflies do [1: "{BEES}"].',
    ],
)
def test_what_may_stand_twice_stays(text: str) -> None:
    assert without_repeats(text) == (text, 0)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('It is so [79: "What is a', "It is so"),
        ("```\n\n \n```\nSo.", "So."),
        ("So.\n\n\n\n\n\nYes.", "So.\n\n\nYes."),
        ("```python\nx = 1", "```python\nx = 1\n```"),
        ("```\nx\n```\nSo [1].", "```\nx\n```\nSo [1]."),
    ],
)
def test_what_a_cut_or_emptied_text_leaves(text: str, left: str) -> None:
    assert tidy(text) == left


def test_a_report_that_lost_its_thread() -> None:
    loop = "".join(f'[{n}: "What is a bee?"]\n' for n in range(1, 40))
    written = (
        f'{BEES}\n\nThey never see red [1: "They never see red."].\n' * 3 + f'```\n{loop}[40: "Wh'
    )
    report = grounded(written, SOURCES)
    assert report.text == (
        f'{BEES} [1: "{BEES}"]\n\nThey never see red [1: "They never see red."].'
    )
    assert [one.quote for one in report.kept] == ["They never see red."]
    assert report.placed == (Citation(1, BEES),)
    assert (len(report.removed), report.repeats) == (39, 4)
