"""What is known of providers and must outlive the catalog's editions: connections, accounts,
breakers. One for each process; whoever builds models of a catalog takes these from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from models.answerer import Clock, SystemClock
from models.flagship.account import account_name, accounts
from models.flagship.client import new_connections
from models.flagship.share import Account, AccountLimit
from models.spec import FlagshipSpec, ModelSpec
from models.wrappers.breaker import BreakerState


class Registry:
    """`account` gives the owner's side of an account by its name."""

    def __init__(self, account: Callable[[str], Account], clock: Clock | None = None) -> None:
        self._account = account
        self._clock = clock or SystemClock()
        self.connections = new_connections()
        self._limits: dict[str, AccountLimit] = {}
        #: By name and entry: an entry that changed is another model, and what was held against
        #: the old one is forgotten. So is a model of another key, which is in the entry, too.
        self._breakers: dict[tuple[str, str], BreakerState] = {}

    def meet(self, models: Mapping[str, ModelSpec]) -> None:
        """Have a share of each of these models' accounts, which may only be a draft's: nothing
        that is in force changes."""
        for name, terms in accounts(models).items():
            if name not in self._limits:
                account = self._account(name)
                self._limits[name] = AccountLimit(name, account, terms, clock=self._clock)

    def follow(self, models: Mapping[str, ModelSpec]) -> None:
        """Take the limits of these models, and forget what is known of models that are gone."""
        self.meet(models)
        for name, terms in accounts(models).items():
            self._limits[name].terms = terms
        entries = {(name, _entry(spec)) for name, spec in models.items()}
        self._breakers = {key: state for key, state in self._breakers.items() if key in entries}

    def limit(self, name: str, spec: FlagshipSpec) -> AccountLimit:
        """The share of this model's account; `meet` or `follow` has been told of the model."""
        return self._limits[account_name(name, spec)]

    def breaker(self, name: str, spec: FlagshipSpec) -> BreakerState:
        return self._breakers.setdefault((name, _entry(spec)), BreakerState(name=name))

    def standing(self) -> dict[str, dict[str, Any]]:
        """Each flagship model as it stands here: `ok`, `failing` or `refused`, and why."""
        now = self._clock.now()
        return {name: state.standing(now) for (name, _), state in self._breakers.items()}

    async def aclose(self) -> None:
        for limit in self._limits.values():
            await limit.aclose()
        await self.connections.aclose()


def _entry(spec: BaseModel) -> str:
    return spec.model_dump_json()
