"""What is cited stands in the source, word by word, or is taken out."""

from __future__ import annotations

import pytest

from serve.evaluation.evidence import (
    GAP,
    Citation,
    Stored,
    check,
    read_evidence,
    reading_requests,
    sentences,
)

SOURCES = [
    Stored("a.md", "Bees", "Bees see ultraviolet light.\nThey cannot see red."),
    Stored("b.md", "Birds", "Most birds see ultraviolet light too."),
]


def test_a_quote_that_stands_in_its_source_stays() -> None:
    text = 'They see more [1: "Bees see ultraviolet light. They cannot see red."].'
    found = check(text, SOURCES)
    assert found.text == text
    assert [one.number for one in found.kept] == [1]
    assert not found.removed


def test_words_without_quotation_marks_are_looked_up_too() -> None:
    found = check("They do [1: They cannot see red.].", SOURCES)
    assert found.text == "They do [1: They cannot see red.]."
    assert [one.quote for one in found.kept] == ["They cannot see red."]


@pytest.mark.parametrize("text", ["see [1](https://a.b)", "x[1] = 2", "in [2024]", "[a: b]"])
def test_what_is_no_citation_is_left_alone(text: str) -> None:
    found = check(text, SOURCES)
    assert (found.text, found.kept, found.removed) == (text, (), ())


@pytest.mark.parametrize(
    ("citation", "problem"),
    [
        ('[1: "Bees see infrared light"]', "do not stand in it"),
        ('[2: "Bees see ultraviolet light"]', "do not stand in it"),
        ('[1: "bees see ultraviolet light"]', "do not stand in it"),
        ('[3: "Bees see ultraviolet light"]', "no such source"),
        ('[0: "Bees see ultraviolet light"]', "no such source"),
        ('[1: "red"]', "fewer than 3 words"),
        ("[1: Bees see infrared light]", "do not stand in it"),
        ("[1]", "quotes no words"),
        ("[1, 2]", "quotes no words"),
        ("[2: ]", "quotes no words"),
    ],
)
def test_what_does_not_hold_is_removed_and_said(citation: str, problem: str) -> None:
    found = check(f"A claim {citation}. Another.", SOURCES)
    assert found.text == "A claim. Another."
    assert problem in str(found.removed[0].problem)


def test_sentences_can_be_quoted_as_they_stand() -> None:
    text = (
        "# On bees\n\nBees see\nultraviolet light. They cannot see red!  No.\n- One more thing\n\n"
    )
    text += "word " * 200
    found = sentences(text)
    assert found == (
        "Bees see ultraviolet light.",
        "They cannot see red!",
        "One more thing",
    )
    source = Stored("a.md", "Bees", text)
    cited = " ".join(f'[1: "{one}"]' for one in found)
    assert len(check(cited, [source]).kept) == len(found)


def test_the_end_of_a_sentence_is_none() -> None:
    text = f"and they see it too. So do we.{GAP}of all of them. Nobody sees x-rays.{GAP}Yes, we do."
    assert sentences(text) == ("So do we.", "Nobody sees x-rays.", "Yes, we do.")


def test_each_source_is_read_by_numbers_alone() -> None:
    empty = Stored("c.md", "Nothing", "Oh.")
    rows = list(reading_requests("Who?", [SOURCES[0], empty, SOURCES[1]], "small"))
    assert [row["id"] for row in rows] == ["read-1", "read-3"]
    assert "2. They cannot see red." in rows[0]["prompt"]
    schema = rows[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["sentences"]["items"]["maximum"] == 2


def test_what_was_picked_is_quoted_and_what_was_not_there_is_not() -> None:
    answers = {"read-1": '{"sentences": [2, 2, 0, 7]}', "read-2": "The first."}
    assert read_evidence(answers, SOURCES) == (Citation(1, "They cannot see red."),)
    assert read_evidence({"read-1": '{"sentences": [Infinity]}'}, SOURCES) == ()
    assert read_evidence({"read-1": None, "read-2": '{"sentences": null}'}, SOURCES) == ()
    assert len(read_evidence({"read-1": '{"sentences": [1, 2]}'}, SOURCES)) == 2
