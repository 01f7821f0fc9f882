"""A changed copy is what `dataclasses.replace` would have made."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from models.call import Call
from models.messages import Request, Usage, user
from models.values import changed


def test_a_changed_copy_is_what_replace_makes_with_slots_or_without() -> None:
    asked = Request("one", (user("hello"),))
    assert changed(asked, model="two") == replace(asked, model="two")
    assert asked.model == "one"
    assert changed(Usage(1, 2), output=3) == Usage(1, 3)


def test_it_is_frozen_and_hashable_like_the_first() -> None:
    call = Call(id="req_1")
    copy = changed(call, role="judge")
    with pytest.raises(FrozenInstanceError):
        copy.role = "answer"  # type: ignore[misc]  # what the type checker forbids too
    assert hash(changed(copy, role="answer")) == hash(call)
