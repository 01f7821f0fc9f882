from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

from models import errors
from models.errors import FusionError, RateLimited, StoreUnavailable, Unavailable

ALL = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, FusionError)
]


def drawn() -> dict[str, tuple[int, int | None]]:
    """The tree in the module's own words: name → (depth, status)."""
    tree = {}
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r" {4}([│├└─ ]*)(\w+)(?: +(\d{3}) .*| +(\d{3}))?$", line):
            branch, name, *statuses = match.groups()
            status = next(filter(None, statuses), None)
            tree[name] = (len(branch) // 4, int(status) if status else None)
    return tree


def test_the_tree_at_the_top_of_the_file_is_the_hierarchy() -> None:
    depth = {cls.__name__: len(cls.__mro__) - len(FusionError.__mro__) for cls in ALL}
    assert {name: place[0] for name, place in drawn().items()} == depth


@pytest.mark.parametrize("cls", ALL[1:])
def test_a_class_has_the_status_that_the_tree_says(cls: type[FusionError]) -> None:
    assert drawn()[cls.__name__][1] == cls.status


@pytest.mark.parametrize("cls", ALL)
def test_an_error_crosses_processes_with_all_that_it_says(cls: type[FusionError]) -> None:
    error = cls("Take another model.", param="model", retry_after_s=2.5)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is cls
        assert str(twin) == twin.message == "Take another model."
        assert (twin.param, twin.retry_after_s) == ("model", 2.5)
        assert (twin.status, twin.kind, twin.code) == (cls.status, cls.kind, cls.code)


@pytest.mark.parametrize("cls", ALL)
def test_an_error_needs_only_its_sentence(cls: type[FusionError]) -> None:
    twin = pickle.loads(pickle.dumps(cls("Why.")))
    assert (twin.message, twin.param, twin.retry_after_s) == ("Why.", None, None)


def test_a_code_means_one_thing() -> None:
    assert len({cls.code for cls in ALL}) == len(ALL)
    assert all(re.fullmatch(r"[a-z_]+", cls.code) for cls in ALL)


def test_only_what_reached_no_model_is_safe_to_repeat() -> None:
    safe = {cls for cls in ALL if cls.safe_to_repeat}
    assert safe == {RateLimited, StoreUnavailable, Unavailable}


def test_a_users_own_error_is_one_of_ours() -> None:
    class Sleepy(Unavailable):
        code = "sleepy"

    assert isinstance(Sleepy("Wake it up."), FusionError)
    assert (Sleepy.status, Sleepy.safe_to_repeat) == (503, True)
