"""The owner of all provider accounts: one for the whole cluster, which leases what they allow.

A gateway's side is `models.flagship.share`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import httpx

from models.flagship.allowance import Allowance, Grant, Kept, Report
from models.flagship.rates import Amount, Terms
from models.spec import ApiModel, FlagshipSpec, ModelSpec


def account_name(name: str, spec: FlagshipSpec) -> str:
    """Models with the same key at the same host share an account. A model without a key, or
    without a host, is an account by itself."""
    if not isinstance(spec, ApiModel):
        return name
    url = httpx.URL(spec.base_url)
    port = f":{url.port}" if url.port else ""
    return f"{spec.api_key_env or name}@{url.host}{port}"


def accounts(models: Mapping[str, ModelSpec]) -> dict[str, Terms]:
    """Each account's terms: the least that one of its models states."""
    found: dict[str, Terms] = {}
    for name, spec in models.items():
        if isinstance(spec, FlagshipSpec):
            terms = Terms(spec.max_concurrent, spec.requests_per_minute, spec.tokens_per_minute)
            account = account_name(name, spec)
            found[account] = _least(terms, found.get(account, terms))
    return found


def _least(a: Terms, b: Terms) -> Terms:
    def less(x: int | None, y: int | None) -> int | None:
        return min((n for n in (x, y) if n is not None), default=None)

    return Terms(min(a.calls, b.calls), less(a.requests, b.requests), less(a.tokens, b.tokens))


class AccountsReplica:
    """The one owner of what every account allows.

    All in one place, so that a catalog may name a new provider while the cluster runs; its calls
    take microseconds. Terms come from who asks: the gateways follow the newest catalog.
    """

    def __init__(self) -> None:
        self._born = time.monotonic()
        self._allowances: dict[str, Allowance] = {}

    async def lease(self, account: str, terms: Terms, holder: str, wanted: Amount) -> Grant:
        return self._of(account, terms).lease(holder, wanted, time.monotonic())

    async def renew(self, account: str, terms: Terms, holder: str, report: Report) -> Kept:
        return self._of(account, terms).renew(holder, report, time.monotonic())

    async def release(self, account: str, holder: str, n: int) -> None:
        if allowance := self._allowances.get(account):
            allowance.release(holder, n)

    def _of(self, account: str, terms: Terms) -> Allowance:
        allowance = self._allowances.setdefault(account, Allowance(terms, self._born))
        allowance.terms = terms
        return allowance


def deployment(where: Mapping[str, str]) -> Any:
    """The bound Serve application that owns all accounts, on nodes that Ray's label selector
    `where` takes."""
    # Here, so that a gateway's share of an account can be had, and tested, without Ray.
    from ray import serve as ray_serve

    return ray_serve.deployment(
        AccountsReplica,
        name="Accounts",
        num_replicas=1,
        # A queue would only hide how many gateways there are.
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0, "label_selector": dict(where)},
    ).bind()


class AccountHandle:
    """A `models.flagship.share.Account` behind Serve's handle of the owner."""

    def __init__(self, handle: Any, name: str) -> None:
        self._handle = handle
        self._name = name

    async def lease(self, terms: Terms, holder: str, wanted: Amount) -> Grant:
        grant: Grant = await self._handle.lease.remote(self._name, terms, holder, wanted)
        return grant

    async def renew(self, terms: Terms, holder: str, report: Report) -> Kept:
        kept: Kept = await self._handle.renew.remote(self._name, terms, holder, report)
        return kept

    async def release(self, holder: str, n: int) -> None:
        await self._handle.release.remote(self._name, holder, n)
