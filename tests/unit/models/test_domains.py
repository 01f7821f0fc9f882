from __future__ import annotations

import pytest

from models.tools.domains import permits


@pytest.mark.parametrize(
    ("url", "allowed", "excluded", "may"),
    [
        ("https://a.org/x", [], [], True),
        ("https://a.org/x", ["a.org"], [], True),
        ("https://WWW.A.org./x", ["a.ORG"], [], True),
        ("https://a.org.evil.net/", ["a.org"], [], False),
        ("https://nota.org/", ["a.org"], [], False),
        ("https://a.org@evil.net/", ["a.org"], [], False),
        ("https://www.a.org/", [], ["a.org"], False),
        ("https://www.a.org/", ["a.org"], ["www.a.org"], False),
        ("not an address", ["a.org"], [], False),
        ("http://[broken/", ["a.org"], [], False),
    ],
)
def test_a_host_stands_for_itself_and_all_under_it(
    url: str, allowed: list[str], excluded: list[str], may: bool
) -> None:
    assert permits(url, allowed, excluded) is may
