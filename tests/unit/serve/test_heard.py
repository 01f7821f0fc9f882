"""What a client of ours hears: lines end where JSON lines end."""

from __future__ import annotations

import pytest

from serve.heard import lines

BODY = '{"a": "x\u2028y\u0085z\x0c"}\r\n\n{"b": 2}\n{"c": "\u00e9"}'.encode()


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_only_line_feeds_end_lines_wherever_the_pieces_are_cut(size: int) -> None:
    pieces = [BODY[at : at + size] for at in range(0, len(BODY), size)]
    assert list(lines(pieces)) == [
        '{"a": "x\u2028y\u0085z\x0c"}',
        "",
        '{"b": 2}',
        '{"c": "\u00e9"}',
    ]
    assert list(lines([b"", b"\n", b""])) == [""]
    assert list(lines([])) == []
