from __future__ import annotations

from typing import Any

from models.errors import AccountRefused
from models.fake import FakeClock
from models.flagship.registry import Registry
from models.flagship.share import Account
from models.spec import ModelSpec, OpenAIModel


def openai(**fields: Any) -> OpenAIModel:
    return OpenAIModel.model_validate({"engine": "openai", "api_key_env": "K", **fields})


def nowhere(name: str) -> Account:
    return None  # type: ignore[return-value]  # nobody asks it here


async def test_what_is_known_of_a_model_outlives_an_edition_that_keeps_it() -> None:
    registry, spec = Registry(nowhere, FakeClock()), openai()
    models: dict[str, ModelSpec] = {"big": spec}
    registry.follow(models)
    limit, breaker, connections = (
        registry.limit("big", spec),
        registry.breaker("big", spec),
        registry.connections,
    )
    models["other"] = openai(max_concurrent=3)
    registry.follow(models)
    assert registry.limit("big", spec) is limit
    assert registry.breaker("big", openai()) is breaker
    assert registry.connections is connections
    assert limit.terms.calls == 3
    await registry.aclose()


async def test_an_entry_that_changed_is_another_model() -> None:
    registry, spec = Registry(nowhere, FakeClock()), openai()
    registry.follow({"big": spec})
    state = registry.breaker("big", spec)
    state.ended(state.admit(0), "refused", 0, "Check the variable K.")
    assert registry.standing()["big"]["status"] == "refused"
    mended = openai(api_key_env="ANOTHER")
    registry.follow({"big": mended})
    assert registry.standing() == {}
    assert registry.breaker("big", mended) is not state
    await registry.aclose()


async def test_a_draft_changes_nothing_that_is_in_force() -> None:
    registry, spec = Registry(nowhere, FakeClock()), openai(max_concurrent=9)
    registry.follow({"big": spec})
    limit, breaker = registry.limit("big", spec), registry.breaker("big", spec)
    draft = openai(max_concurrent=1)
    registry.meet({"other": draft})
    assert registry.limit("other", draft) is limit
    assert limit.terms.calls == 9
    assert registry.breaker("big", spec) is breaker
    await registry.aclose()


async def test_how_a_model_stands() -> None:
    clock = FakeClock()
    registry, spec = Registry(nowhere, clock), openai()
    registry.follow({"big": spec})
    state = registry.breaker("big", spec)
    assert registry.standing() == {"big": {"status": "ok"}}
    state.ended(state.admit(0), "refused", 0, str(AccountRefused("Check the variable K.")))
    assert registry.standing() == {
        "big": {
            "status": "refused",
            "why": "Check the variable K.",
            "asked_again_in_s": state.refused_s,
        }
    }
    await registry.aclose()
