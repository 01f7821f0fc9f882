from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from models.flagship.account import accounts
from models.flagship.rates import Terms
from models.spec import AnthropicModel, OpenAIModel


def openai(**fields: Any) -> OpenAIModel:
    return OpenAIModel.model_validate({"engine": "openai", **fields})


def test_models_with_one_key_at_one_host_share_an_account() -> None:
    models = {
        "a": openai(api_key_env="K", max_concurrent=9, tokens_per_minute=900),
        "b": openai(api_key_env="K", max_concurrent=5, requests_per_minute=60),
        "c": openai(api_key_env="OTHER"),
        "d": AnthropicModel(engine="anthropic", api_key_env="K"),
    }
    assert accounts(models) == {
        "K@api.openai.com": Terms(5, 60, 900),
        "OTHER@api.openai.com": Terms(64),
        "K@api.anthropic.com": Terms(64),
    }


def test_models_without_a_key_share_none() -> None:
    models = {
        "a": openai(base_url="http://127.0.0.1:8001/v1"),
        "b": openai(base_url="http://127.0.0.1:8001/v1"),
    }
    assert set(accounts(models)) == {"a@127.0.0.1:8001", "b@127.0.0.1:8001"}


@pytest.mark.parametrize("address", ["https://host:port/v1", "https://xn--/v1", "https:///v1"])
def test_an_address_that_no_client_can_read_stops_the_start(address: str) -> None:
    with pytest.raises(ValidationError, match=r"address|host"):
        openai(base_url=address)
    assert accounts({"a": openai(base_url="http://[::1]:8001/v1")})
