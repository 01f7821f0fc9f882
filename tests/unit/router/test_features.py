"""Every text becomes finite numbers of one shape, quickly, whatever it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.features import SURFACE, SURFACE_NAMES, surface
from router.reading import TOKENS, read
from router.words import AXES, meaning

ODD = [
    "",
    " ",
    "\x00",
    "\ud800",
    "x" * 1_000_000,
    "这是一个没有空格的句子吗？",
    "١٢٣ + ٤",
    "1.2.3 9" * 400,
]


def value(prompt: str, name: str) -> float:
    return float(surface(read(prompt))[SURFACE_NAMES.index(name)])


@pytest.mark.parametrize("prompt", ODD, ids=range(len(ODD)))
def test_odd_prompts_have_features(prompt: str) -> None:
    assert surface(read(prompt)).shape == (SURFACE,)
    assert np.isfinite(surface(read(prompt))).all()
    assert np.isfinite(meaning(read(prompt))).all()
    assert 2 <= len(read(prompt).tokens) <= TOKENS


@given(st.text())
def test_any_text_has_finite_features(prompt: str) -> None:
    assert np.isfinite(surface(read(prompt))).all()
    row = meaning(read(prompt))
    assert row.shape == (AXES,)
    assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-5) or not row.any()


@given(st.text(st.characters(codec="ascii"), max_size=80))
def test_a_foreign_word_beside_plain_ones_leaves_them_as_they_are(plain: str) -> None:
    alone, beside = read(plain), read(f"{plain} ñ")
    assert beside.words == [*alone.words, "ñ"]
    assert beside.codes[:-1] == alone.codes
    assert beside.tokens == [*alone.tokens[:-1], *read("n").tokens[1:]]


def test_form_is_seen() -> None:
    choice = "Which is largest?\nA. 3\nB. 11\nC. 7\nD. 2"
    assert value(choice, "options") == 4
    assert value(choice, "numeric_options") == 1.0
    assert value("Which? (A) a cat (B) a dog", "options") == 2
    assert value("Add 1,200 and 3.5", "decimals") == 0.5
    assert value("I do not know, never", "negation") > value("I do know", "negation")
    assert value("perspicacious obfuscation", "rarity") > value("the big house", "rarity")


def test_the_end_of_a_long_prompt_counts() -> None:
    body = "lorem ipsum " * 1_000
    assert value(body + "how many?", "questions") > value(body, "questions")
    assert read(body + "how many?").tokens[-3:-1] == read("many?").tokens[1:-1]


def test_words_that_mean_alike_are_near() -> None:
    cat, dog, tax = (meaning(read(f"about a {word}")) for word in ("kitten", "puppy", "mortgage"))
    assert cat @ dog > cat @ tax + 0.1


def test_known_pieces() -> None:
    # [CLS] the router ##s [SEP]: ids of the uncased BERT vocabulary.
    assert read("The").tokens == [101, 1996, 102]
    assert read("THÉ").tokens == read("the").tokens
    assert read("5+3").tokens == [101, 1019, 1009, 1017, 102]
    assert len(read("日本").tokens) == 4
