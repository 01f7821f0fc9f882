"""Values: made quickly, changed by copying, and never changed in place, as the checker sees."""

from __future__ import annotations

import os
from dataclasses import replace

import mypy.api

from models.call import Call
from models.messages import Request, Usage, user
from models.values import changed

CHANGES = """
from dataclasses import field
from models.values import changed, value

@value(slots=True)
class Point:
    x: int
    y: list[int] = field(default_factory=list)

point = Point(1)
point.x = 2
changed(point, x="two")
"""


def test_a_changed_copy_is_what_replace_makes_with_slots_or_without() -> None:
    asked = Request("one", (user("hello"),))
    assert changed(asked, model="two") == replace(asked, model="two")
    assert asked.model == "one"
    assert changed(Usage(1, 2), output=3) == Usage(1, 3)


def test_it_is_hashable_like_the_first() -> None:
    call = Call(id="req_1")
    copy = changed(call, role="judge")
    assert hash(changed(copy, role="answer")) == hash(call)


def test_the_type_checker_forbids_to_change_one_in_place_or_to_a_wrong_type() -> None:
    asked = ["--config-file", "", "--cache-dir", os.devnull, "-c", CHANGES]
    in_place, wrong_type, *_ = mypy.api.run(asked)[0].splitlines()
    assert 'Property "x" defined in "Point" is read-only' in in_place
    assert 'Argument "x" to "replace" of "Point" has incompatible type' in wrong_type
