"""The ledger where it is kept: leases, settlements and what crashes left, in whole transactions.

Every method may raise StoreUnavailable, and may then be repeated: an entry that the store
knows already is not settled again, and a lease that is gone is not returned twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from models.answerer import Clock
from models.call import new_id
from models.messages import Usage
from serve.money import ledger
from serve.money.journal import Left, content_of
from serve.money.ledger import Balance, Entry, Limit, Refusal
from serve.store.database import Database
from serve.store.steps import READ, How, Row, Steps, marks

T = TypeVar("T")
#: How long a lease lives without being renewed.
LEASE_S = 15.0
#: How long after its end a lease is kept for its process, or its machine's journal, to return.
LOST_S = 600.0

#: Settlements in one transaction, and names in one statement: databases take only so many.
BATCH = 500

#: Every transaction of the ledger touches the account of everything, so they go one by one.
_ALONE = How(locks=("ledger",))
_BOOK = """
insert into entries (
    id, at, request, project, tier, role, model, key, session, job, nano_usd, basis,
    input, output, cached, reasoning, cache_written
) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_KNOWN = """
select id from entries where id in ({ids}) union all select id from unknowns where id in ({ids})
"""
_OPEN_ACCOUNT = "insert into accounts (name) values (?) on conflict do nothing"
_ACCOUNTS = """
select name, settled, day, settled_day, month, settled_month, held, frozen
from accounts where name in ({names})
"""
_CHARGE = """
update accounts set settled = ?, day = ?, settled_day = ?, month = ?, settled_month = ?
where name = ?
"""
_HOLD = "update accounts set held = held + ? where name in ({names})"
_FREEZE = "update accounts set frozen = ? where name in ({names})"
_UNFREEZE = "update accounts set frozen = null where name = ? and frozen is not null returning name"
_LEASE = "insert into leases (id, holder, accounts, amount, expires_at) values (?, ?, ?, ?, ?)"
_GROW = """
update leases set amount = amount + ?, expires_at = ? where id = ? and holder = ? returning id
"""
_RENEW = "update leases set expires_at = ? where holder = ? returning id"
#: A lease, or what became of it. That of a process which was lost for long is among the unknowns,
#: and gives as well.
_FOUND = """
select 'leases', amount, accounts from leases where id = ?
union all select 'unknowns', amount, accounts from unknowns where id = ?
"""
_SET = {
    "leases": "update leases set amount = ? where id = ?",
    "unknowns": "update unknowns set amount = ? where id = ?",
}
_END = {
    "leases": "delete from leases where id = ?",
    "unknowns": "delete from unknowns where id = ?",
}
_HELD_BY = "select id, amount, accounts, expires_at from leases where holder = ?"
_LOST = "select id, amount, accounts, expires_at from leases where expires_at < ?"
_UNKNOWN = """
insert into unknowns (id, at, amount, accounts, entry, why) values (?, ?, ?, ?, ?, ?)
"""
_READ_UNKNOWN = "select amount, accounts, entry from unknowns where id = ?"


@dataclass(frozen=True, slots=True)
class Lease:
    id: str
    amount: int


class _Found(NamedTuple):
    """A lease in the store: its table, what it still has, and the accounts that hold it."""

    table: str
    amount: int
    accounts: list[str]


class Bank:
    """The accounts of one installation."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def lease(
        self,
        holder: str,
        names: tuple[str, ...],
        limits: Mapping[str, Limit],
        *,
        least: int,
        wanted: int,
        onto: str | None = None,
        new: str | None = None,
    ) -> Lease | Refusal:
        """Between `least` and `wanted` from all of these accounts, for `holder`.

        Added to the lease `onto` where that still lives, else a lease of its own with the id
        `new`. `Lease.amount` is what was added.
        """

        def steps() -> Steps[Lease | Refusal]:
            balances = yield from _balances(names, self._today())
            amount = ledger.grant(least, wanted, balances, limits)
            if isinstance(amount, Refusal):
                return amount
            yield from _hold(names, amount)
            expires = self._at(LEASE_S)
            if onto is not None and (yield _GROW, (amount, expires, onto, holder)):
                return Lease(onto, amount)
            made = new or new_id("lease")
            yield _LEASE, (made, holder, json.dumps(names), amount, expires)
            return Lease(made, amount)

        return await self._database.run(steps(), _ALONE)

    async def settle(self, lease: str, done: Sequence[tuple[Entry, int]]) -> None:
        """Book calls that ended, each with what it had reserved of this lease."""
        await self._database.run(_settle(lease, done, self._today()), _ALONE)

    async def give_back(self, lease: str, amount: int | None) -> None:
        """Return a part of a lease that no call has reserved; all of it with None, which ends
        the lease."""
        await self._database.run(_take(lease, amount), _ALONE)

    async def renew(self, holder: str) -> set[str]:
        """Keep all leases of this process alive. Returns those that there are."""

        def steps() -> Steps[set[str]]:
            rows = yield _RENEW, (self._at(LEASE_S), holder)
            return {row[0] for row in rows}

        return await self._database.run(steps(), _ALONE)

    async def recover(self, holder: str, left: Left, *, whole: bool) -> None:
        """Settle what a dead process's journal tells: calls that ended are booked, calls whose
        end nobody knows stay held until a person resolves them, the rest of its leases is
        returned; where the journal may lack lines, so not `whole`, the rest stays held too."""
        for lease, done in left.ended.items():
            for piece in _pieces(done):
                await self.settle(lease, piece)

        def steps() -> Steps[None]:
            named = yield _HELD_BY, (holder,)
            for lease in sorted({*left.ended, *left.open, *(row[0] for row in named)}):
                still_open = left.open.get(lease, ())
                known = yield from _known([entry.id for entry, _ in still_open])
                for entry, worst in still_open:
                    if worst and entry.id not in known:
                        yield from _keep_open(lease, entry, worst)
                if whole:
                    yield from _take(lease, None)
            lost = yield _HELD_BY, (holder,)
            yield from _keep_held(lost, "its machine went down")

        await self._database.run(steps(), _ALONE)

    async def collect(self) -> int:
        """Hold as unknown what leases of lost processes had. Returns how many there were."""

        def steps() -> Steps[int]:
            lost = yield _LOST, (self._at(-LOST_S),)
            yield from _keep_held(lost, "the process that held it is gone, and so is its journal")
            return len(lost)

        return await self._database.run(steps(), _ALONE)

    async def resolve(self, unknown: str, cost: int) -> bool:
        """Settle an unknown call to what it did cost, by hand. False if there is none so named."""

        def steps() -> Steps[bool]:
            found = yield _READ_UNKNOWN, (unknown,)
            if not found:
                return False
            amount, names, entry = found[0][0], json.loads(found[0][1]), _json(found[0][2])
            yield _END["unknowns"], (unknown,)
            yield from _hold(names, -amount)
            if entry is not None:
                raw = entry | {"usage": Usage(**entry["usage"]), "nano_usd": cost}
                yield from _book([Entry(**raw)], self._today())
            elif cost:
                yield from _charge(dict.fromkeys(names, cost), self._today())
            return True

        return await self._database.run(steps(), _ALONE)

    async def unfreeze(self, account: str) -> bool:
        """Let this account spend again. False if it was not frozen."""

        def steps() -> Steps[bool]:
            return bool((yield _UNFREEZE, (account,)))

        return await self._database.run(steps(), _ALONE)

    async def balances(self, names: tuple[str, ...]) -> dict[str, Balance]:
        """These accounts as they stand today."""
        found = await self._database.run(_read(names, self._today()), READ)
        return {name: found.get(name, Balance(name)) for name in names}

    def _today(self) -> int:
        return ledger.day_of(self._clock.now())

    def _at(self, from_now_s: float) -> int:
        return int((self._clock.now() + from_now_s) * 1e6)


def _settle(lease: str, done: Sequence[tuple[Entry, int]], today: int) -> Steps[None]:
    reserved = {entry.id: worst for entry, worst in done}
    fresh = yield from _book([entry for entry, _ in done], today)
    if not fresh:
        return
    yield from _take(lease, sum(min(entry.cost, reserved[entry.id]) for entry in fresh))
    for entry in fresh:
        if entry.cost > reserved[entry.id]:
            why = f"the bill of call {entry.id} to {entry.model} passed what was reserved for it"
            found = yield from _lease(lease)
            held = found.accounts if found else entry.accounts
            yield _FREEZE.format(names=marks(held)), (why, *held)


def _book(made: Sequence[Entry], today: int) -> Steps[list[Entry]]:
    """Write entries and charge their accounts; returns those that were not known before."""
    known = yield from _known([entry.id for entry in made])
    fresh = list({entry.id: entry for entry in made if entry.id not in known}.values())
    if not fresh:
        return []
    yield _BOOK, [_row(entry) for entry in fresh]
    costs: Counter[str] = Counter()
    for entry in fresh:
        costs.update(dict.fromkeys(entry.accounts, entry.cost))
    yield from _charge(costs, today)
    return fresh


def _charge(costs: Mapping[str, int], today: int) -> Steps[None]:
    balances = yield from _balances(tuple(costs), today)
    after = [balances[name].settle(cost) for name, cost in costs.items()]
    yield (
        _CHARGE,
        [(a.settled, a.day, a.settled_day, a.month, a.settled_month, a.name) for a in after],
    )


def _balances(names: Sequence[str], today: int) -> Steps[dict[str, Balance]]:
    """These accounts, made where they are new."""
    found = yield from _read(names, today)
    if new := [(name,) for name in names if name not in found]:
        yield _OPEN_ACCOUNT, new
        found |= {name: Balance(name).at(today) for (name,) in new}
    return found


def _read(names: Sequence[str], today: int) -> Steps[dict[str, Balance]]:
    rows = yield _ACCOUNTS.format(names=marks(names)), tuple(names)
    return {row[0]: Balance(*row).at(today) for row in rows}


def _hold(names: Sequence[str], amount: int) -> Steps[None]:
    yield _HOLD.format(names=marks(names)), (amount, *names)


def _known(ids: Sequence[str]) -> Steps[set[str]]:
    """Those of these calls that are in the books, or among the unknowns."""
    known: set[str] = set()
    for some in _pieces(ids):
        rows = yield _KNOWN.format(ids=marks(some)), (*some, *some)
        known.update(row[0] for row in rows)
    return known


def _lease(lease: str) -> Steps[_Found | None]:
    rows = yield _FOUND, (lease, lease)
    for table, amount, names in rows:
        return _Found(table, amount, json.loads(names))
    return None


def _take(lease: str, amount: int | None) -> Steps[None]:
    """Let this much of a lease go, all of it with None, which also ends it."""
    found = yield from _lease(lease)
    if found is None:
        return
    taken = found.amount if amount is None else min(amount, found.amount)
    yield from _hold(found.accounts, -taken)
    if amount is None:
        yield _END[found.table], (lease,)
    else:
        yield _SET[found.table], (found.amount - taken, lease)


def _keep_open(lease: str, entry: Entry, worst: int) -> Steps[None]:
    """Move a call's reservation from its lease to the unknowns. It stays held."""
    found = yield from _lease(lease)
    if found is None:  # this journal was recovered before
        return
    amount = min(worst, found.amount)
    yield _SET[found.table], (found.amount - amount, lease)
    names, kept = json.dumps(found.accounts), json.dumps(content_of(entry))
    why = "its process died before the call ended"
    yield _UNKNOWN, (entry.id, int(entry.at * 1e6), amount, names, kept, why)


def _keep_held(lost: Sequence[Row], why: str) -> Steps[None]:
    """Make these leases unknown amounts, which stay held."""
    for lease, amount, names, expires_at in lost:
        yield _END["leases"], (lease,)
        if amount:
            yield _UNKNOWN, (lease, expires_at, amount, names, None, why)


def _pieces(things: Sequence[T]) -> Iterator[Sequence[T]]:
    return (things[at : at + BATCH] for at in range(0, len(things), BATCH))


def _row(entry: Entry) -> tuple[Any, ...]:
    who = (entry.id, int(entry.at * 1e6), entry.request, entry.project, entry.tier, entry.role)
    whose = (entry.model, entry.key, entry.session, entry.job)
    used = entry.usage
    tokens = (used.input, used.output, used.cached, used.reasoning, used.cache_written)
    return (*who, *whose, entry.nano_usd, entry.basis, *tokens)


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)
