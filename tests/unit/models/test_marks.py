from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.wrappers.marks import Splitter

THINK = (("<think>", "</think>"),)
CALLS = (("<tool_call>", "</tool_call>"), ("[TOOL_CALLS]", ""))


def split(
    *pieces: str, marks: tuple[tuple[str, str], ...] = CALLS, **options: bool
) -> list[tuple[str, str]]:
    """What comes out, neighbours of one kind joined."""
    splitter = Splitter(marks, **options)
    out: list[tuple[str, str]] = []
    for piece in (*(p for text in pieces for p in splitter.feed(text)), *splitter.finish()):
        if out and out[-1][0] == piece.kind != "end":
            out[-1] = (piece.kind, out[-1][1] + piece.text)
        else:
            out.append((piece.kind, piece.text))
    return out


def test_what_is_marked_is_taken_out() -> None:
    assert split("a<tool_call>b</tool_call>c") == [
        ("text", "a"),
        ("inside", "b"),
        ("end", ""),
        ("text", "c"),
    ]


def test_an_empty_closing_mark_is_the_end_of_the_text() -> None:
    assert split("a[TOOL_CALLS]b") == [("text", "a"), ("inside", "b"), ("end", "")]


def test_a_mark_that_is_not_closed_leaves_what_is_inside() -> None:
    splitter = Splitter(CALLS)
    assert [p.kind for p in (*splitter.feed("<tool_call>b"), *splitter.finish())] == ["inside"]
    assert splitter.open


def test_at_the_start_means_at_the_start() -> None:
    assert split(" <think>a</think>b", marks=THINK, at_start=True)[1] == ("inside", "a")
    assert split("x <think>a", marks=THINK, at_start=True) == [("text", "x <think>a")]
    twice = split("<think>a</think><think>b</think>", marks=THINK, at_start=True)
    assert twice[-1] == ("text", "<think>b</think>")


def test_nothing_is_held_back_longer_than_it_must_be() -> None:
    splitter = Splitter(THINK, at_start=True)
    assert list(splitter.feed("<thi")) == []
    assert [p.text for p in splitter.feed("s is it")] == ["<this is it"]
    assert splitter.idle


@given(st.text(alphabet="ab<think>/tool_c[TOOL_CALLS]\n ", max_size=60), st.data())
def test_where_the_pieces_are_cut_does_not_matter(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    for marks, at_start in ((CALLS, False), (THINK, True)):
        options = {"at_start": at_start}
        assert split(*pieces, marks=marks, **options) == split(text, marks=marks, **options)
