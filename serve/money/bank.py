"""The ledger where it is kept: leases, settlements and what crashes left, each one transaction.

Every method may raise StoreUnavailable, and may then be repeated: an entry that the store
knows already is not settled again, and a lease that is gone is not returned twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from models.answerer import Clock
from models.call import new_id
from models.messages import Usage
from serve.money import ledger
from serve.money.journal import Left
from serve.money.ledger import Balance, Entry, Limit, Refusal
from serve.store.database import Database
from serve.store.schema import accounts, entries, leases, unknowns

#: How long a lease lives without being renewed.
LEASE_S = 15.0
#: How long after its end a lease is kept for its process, or its machine's journal, to return.
LOST_S = 600.0


@dataclass(frozen=True, slots=True)
class Lease:
    id: str
    amount: int


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
    ) -> Lease | Refusal:
        """Between `least` and `wanted` from all of these accounts, for `holder`.

        Added to the lease `onto` where that still lives. `Lease.amount` is what was added.
        """
        async with self._database.write() as connection:
            balances = await self._balances(connection, names)
            amount = ledger.grant(least, wanted, balances, limits)
            if isinstance(amount, Refusal):
                return amount
            await _hold(connection, names, amount)
            expires = self._at(LEASE_S)
            if onto is not None:
                change = sa.update(leases).where(leases.c.id == onto, leases.c.holder == holder)
                done = await connection.execute(
                    change.values(amount=leases.c.amount + amount, expires_at=expires)
                )
                if done.rowcount:
                    return Lease(onto, amount)
            made = new_id("lease")
            row = {"id": made, "holder": holder, "accounts": list(names), "amount": amount}
            await connection.execute(sa.insert(leases).values(**row, expires_at=expires))
            return Lease(made, amount)

    async def settle(self, lease: str, done: Sequence[tuple[Entry, int]]) -> None:
        """Book calls that ended, each with what it had reserved of this lease."""
        async with self._database.write() as connection:
            await self._settle(connection, lease, done)

    async def give_back(self, lease: str, amount: int | None) -> None:
        """Return a part of a lease that no call has reserved; all of it with None, which ends
        the lease."""
        async with self._database.write() as connection:
            await _take(connection, lease, amount)

    async def renew(self, holder: str) -> None:
        """Keep all leases of this process alive."""
        async with self._database.write() as connection:
            await connection.execute(
                sa.update(leases)
                .where(leases.c.holder == holder)
                .values(expires_at=self._at(LEASE_S))
            )

    async def recover(self, holder: str, left: Left, *, whole: bool) -> None:
        """Settle what a dead process's journal tells: calls that ended are booked, calls whose
        end nobody knows stay held until a person resolves them, the rest of its leases is
        returned; where the journal may lack lines, so not `whole`, the rest stays held too."""
        async with self._database.write() as connection:
            own = sa.select(leases.c.id).where(leases.c.holder == holder)
            named = (await connection.execute(own)).scalars()
            for lease in sorted({*left.ended, *left.open, *named}):
                await self._settle(connection, lease, left.ended.get(lease, ()))
                still_open = left.open.get(lease, ())
                known = await _known(connection, [entry.id for entry, _ in still_open])
                for entry, worst in still_open:
                    if worst and entry.id not in known:
                        await self._unknown(connection, lease, entry, worst)
                if whole:
                    await _take(connection, lease, None)
            lost = await connection.execute(sa.select(leases).where(leases.c.holder == holder))
            await _keep_held(connection, lost.all(), "its machine went down")

    async def collect(self) -> int:
        """Hold as unknown what leases of lost processes had. Returns how many there were."""
        async with self._database.write() as connection:
            old = sa.select(leases).where(leases.c.expires_at < self._at(-LOST_S))
            lost = (await connection.execute(old.with_for_update(skip_locked=True))).all()
            why = "the process that held it is gone, and so is its journal"
            await _keep_held(connection, lost, why)
            return len(lost)

    async def resolve(self, unknown: str, cost: int) -> bool:
        """Settle an unknown call to what it did cost, by hand. False if there is none so named."""
        async with self._database.write() as connection:
            row = (
                await connection.execute(sa.select(unknowns).where(unknowns.c.id == unknown))
            ).one_or_none()
            if row is None:
                return False
            await connection.execute(sa.delete(unknowns).where(unknowns.c.id == unknown))
            await _hold(connection, tuple(row.accounts), -row.amount)
            if row.entry is not None:
                raw = row.entry | {"usage": Usage(**row.entry["usage"]), "nano_usd": cost}
                await self._book(connection, [Entry(**raw)])
            elif cost:
                await self._charge(connection, Counter(dict.fromkeys(row.accounts, cost)))
            return True

    async def unfreeze(self, account: str) -> bool:
        """Let this account spend again. False if it was not frozen."""
        change = sa.update(accounts).where(
            accounts.c.name == account, accounts.c.frozen.is_not(None)
        )
        async with self._database.write() as connection:
            return bool((await connection.execute(change.values(frozen=None))).rowcount)

    async def balances(self, names: tuple[str, ...]) -> dict[str, Balance]:
        """These accounts as they stand today."""
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(accounts).where(accounts.c.name.in_(names)))
            found = {row.name: _balance(row).at(self._today()) for row in rows}
        return {name: found.get(name, Balance(name)) for name in names}

    async def _settle(
        self, connection: AsyncConnection, lease: str, done: Sequence[tuple[Entry, int]]
    ) -> None:
        reserved = {entry.id: worst for entry, worst in done}
        fresh = await self._book(connection, [entry for entry, _ in done])
        await _take(connection, lease, sum(min(entry.cost, reserved[entry.id]) for entry in fresh))
        for entry in fresh:
            if entry.cost > reserved[entry.id]:
                why = (
                    f"the bill of call {entry.id} to {entry.model} passed what was reserved for it"
                )
                found = await _lease(connection, lease)
                held = found[1].accounts if found else entry.accounts
                await connection.execute(
                    sa.update(accounts).where(accounts.c.name.in_(held)).values(frozen=why)
                )

    async def _book(self, connection: AsyncConnection, made: list[Entry]) -> list[Entry]:
        """Write entries and charge their accounts; returns those that were not known before."""
        known = await _known(connection, [entry.id for entry in made])
        fresh = list({entry.id: entry for entry in made if entry.id not in known}.values())
        if not fresh:
            return []
        await connection.execute(sa.insert(entries), [_row(entry) for entry in fresh])
        costs: Counter[str] = Counter()
        for entry in fresh:
            costs.update(dict.fromkeys(entry.accounts, entry.cost))
        await self._charge(connection, costs)
        return fresh

    async def _charge(self, connection: AsyncConnection, costs: Mapping[str, int]) -> None:
        balances = await self._balances(connection, tuple(costs))
        for name, cost in costs.items():
            after = balances[name].settle(cost)
            await connection.execute(
                sa.update(accounts)
                .where(accounts.c.name == name)
                .values(
                    settled=after.settled,
                    day=after.day,
                    settled_day=after.settled_day,
                    month=after.month,
                    settled_month=after.settled_month,
                )
            )

    async def _unknown(
        self, connection: AsyncConnection, lease: str, entry: Entry, worst: int
    ) -> None:
        """Move a call's reservation from its lease to the unknowns. It stays held."""
        found = await _lease(connection, lease)
        if found is None:  # this journal was recovered before
            return
        table, row = found
        amount = min(worst, row.amount)
        await connection.execute(
            sa.update(table).where(table.c.id == lease).values(amount=row.amount - amount)
        )
        await connection.execute(
            sa.insert(unknowns).values(
                id=entry.id,
                at=int(entry.at * 1e6),
                amount=amount,
                accounts=row.accounts,
                entry=asdict(entry),
                why="its process died before the call ended",
            )
        )

    async def _balances(
        self, connection: AsyncConnection, names: tuple[str, ...]
    ) -> dict[str, Balance]:
        """These accounts, made where they are new, and locked in an order that all share."""
        insert = sqlite.insert if self._database.is_sqlite else postgresql.insert
        ordered = sorted(names)
        await connection.execute(
            insert(accounts).on_conflict_do_nothing(), [{"name": name} for name in ordered]
        )
        rows = await connection.execute(
            sa.select(accounts)
            .where(accounts.c.name.in_(ordered))
            .order_by(accounts.c.name)
            .with_for_update()
        )
        return {row.name: _balance(row).at(self._today()) for row in rows}

    def _today(self) -> int:
        return ledger.day_of(self._clock.now())

    def _at(self, from_now_s: float) -> int:
        return int((self._clock.now() + from_now_s) * 1e6)


async def _known(connection: AsyncConnection, ids: list[str]) -> set[str]:
    """Those of these calls that are in the books, or among the unknowns."""
    found: set[str] = set()
    for column in (entries.c.id, unknowns.c.id):
        found.update((await connection.execute(sa.select(column).where(column.in_(ids)))).scalars())
    return found


async def _lease(connection: AsyncConnection, lease: str) -> tuple[sa.Table, Any] | None:
    """The row of a lease and its table, locked. That of a process which was lost for long is
    among the unknowns, and gives as well."""
    for table in (leases, unknowns):
        query = sa.select(table.c.amount, table.c.accounts).where(table.c.id == lease)
        row = (await connection.execute(query.with_for_update())).one_or_none()
        if row is not None:
            return table, row
    return None


async def _keep_held(connection: AsyncConnection, lost: Sequence[Any], why: str) -> None:
    """Make these leases unknown amounts, which stay held."""
    for row in lost:
        await connection.execute(sa.delete(leases).where(leases.c.id == row.id))
        if row.amount:
            fact = {"at": row.expires_at, "amount": row.amount, "accounts": row.accounts}
            await connection.execute(
                sa.insert(unknowns).values(id=row.id, **fact, entry=None, why=why)
            )


async def _hold(connection: AsyncConnection, names: tuple[str, ...], amount: int) -> None:
    those = accounts.c.name.in_(names)
    # An update locks rows in an order of its own, and two of them could wait for each other.
    await connection.execute(
        sa.select(accounts.c.name).where(those).order_by(accounts.c.name).with_for_update()
    )
    await connection.execute(sa.update(accounts).where(those).values(held=accounts.c.held + amount))


async def _take(connection: AsyncConnection, lease: str, amount: int | None) -> None:
    """Let this much of a lease go, all of it with None, which also ends it."""
    found = await _lease(connection, lease)
    if found is None:
        return
    table, row = found
    taken = row.amount if amount is None else min(amount, row.amount)
    await _hold(connection, tuple(row.accounts), -taken)
    if amount is None:
        await connection.execute(sa.delete(table).where(table.c.id == lease))
    else:
        left = row.amount - taken
        await connection.execute(sa.update(table).where(table.c.id == lease).values(amount=left))


def _balance(row: Any) -> Balance:
    return Balance(**row._mapping)


def _row(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = asdict(entry)
    used: dict[str, int] = row.pop("usage")
    return {**row, **used, "at": int(entry.at * 1e6)}
