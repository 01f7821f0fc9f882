"""The key of a flagship model: read from the environment, shown nowhere."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr


class MissingKey(ValueError):
    """A flagship model's key is not in the environment, or cannot be one."""


def read_key(model: str, variable: str | None, environ: Mapping[str, str]) -> SecretStr | None:
    """The key in this environment variable; None for a model that needs none."""
    if variable is None:
        return None
    key = environ.get(variable, "").strip()
    if not key:
        raise MissingKey(f"Model '{model}' needs its API key in the variable {variable}.")
    if not (key.isascii() and key.isprintable()):
        raise MissingKey(f"The variable {variable} of model '{model}' does not hold an API key.")
    return SecretStr(key)
