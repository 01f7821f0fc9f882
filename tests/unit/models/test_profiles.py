from __future__ import annotations

import pytest

from models.spec import OpenAIModel
from models.wrappers.profiles import FAMILIES, profile_of


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (("claude-opus-4-6",), "claude"),
        (("big", "Qwen/Qwen3-8B"), "qwen"),
        (("deepseek-r1",), "deepseek-r1"),
        (("small", None, "package:smollm2"), "other"),
        (("anything", "meta-llama/Llama-3.1-8B"), "llama"),
    ],
)
def test_a_model_is_known_by_any_of_its_names(names: tuple[str | None, ...], family: str) -> None:
    assert profile_of(*names).family == family


def test_the_catalog_may_say_it() -> None:
    assert profile_of("claude", family="qwen").family == "qwen"
    assert OpenAIModel(engine="openai", family="qwen").family == "qwen"
    with pytest.raises(ValueError, match="no such family"):
        OpenAIModel(engine="openai", family="quen")


def test_every_model_has_one() -> None:
    assert profile_of("").family == FAMILIES[-1] == "other"
