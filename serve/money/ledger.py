"""The arithmetic of the ledger: what may be leased, and why not. Pure functions of values.

Every amount is a whole number of nano-dollars. An account has three sums: what is *settled*
(spent for good), what is *held* (set aside by leases and by calls whose end nobody knows), and
its limits. Settled plus held never passes a limit:

    lease     store:  held += amount        nothing may be reserved that is not leased
    reserve   memory: a lease's free part -= a call's worst case
    settle    store:  held -= cost, settled += cost; the rest of the worst case is free again
    return    store:  held -= what a lease did not need
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from models.call import Call
from models.messages import StageRole, Usage
from models.prices import usd
from models.values import value

#: Largest amount that every store can hold (a signed 64-bit integer).
MOST = 2**63 - 1
#: The account of everything.
ALL = "all"
NOTHING_USED = Usage()
#: Whose work a call does: that of the brain, or that of the workforce.
BRAIN: frozenset[StageRole] = frozenset({"plan", "judge", "synthesis"})


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that an account may spend: for ever, in a day, in a month (both UTC)."""

    total: int | None = None
    day: int | None = None
    month: int | None = None

    def __bool__(self) -> bool:
        return (self.total, self.day, self.month) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Balance:
    """One account as it stands. `day` and `month` (20261122, 202611) date the two sums."""

    name: str
    settled: int = 0
    day: int = 0
    settled_day: int = 0
    month: int = 0
    settled_month: int = 0
    held: int = 0
    frozen: str | None = None

    def at(self, day: int) -> Balance:
        """The same account on this day. A clock that went back changes nothing: the sums of a
        day must not be forgotten and counted anew."""
        today, this_month = max(day, self.day), max(day // 100, self.month)
        return Balance(
            name=self.name,
            settled=self.settled,
            day=today,
            settled_day=self.settled_day if today == self.day else 0,
            month=this_month,
            settled_month=self.settled_month if this_month == self.month else 0,
            held=self.held,
            frozen=self.frozen,
        )

    def settle(self, cost: int) -> Balance:
        """The account after `cost` more was spent. Held amounts are the caller's to change."""
        return Balance(
            name=self.name,
            settled=min(MOST, self.settled + cost),
            day=self.day,
            settled_day=min(MOST, self.settled_day + cost),
            month=self.month,
            settled_month=min(MOST, self.settled_month + cost),
            held=self.held,
            frozen=self.frozen,
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an account does not give what was asked."""

    account: str
    reason: str

    def message(self, worst: int) -> str:
        return (
            f"{self.reason} This call could cost up to {usd(worst)} USD. Nothing was spent on it."
        )


def day_of(at_s: float) -> int:
    """The UTC day of this time as a number: 20261122."""
    moment = datetime.fromtimestamp(at_s, UTC)
    return moment.year * 10_000 + moment.month * 100 + moment.day


def room(balance: Balance, limit: Limit) -> tuple[int, str]:
    """How much more this account may hold now, and the words for the limit that says so."""
    least, words = MOST - balance.settled - balance.held, "no limit"
    for name, bound, settled in (
        ("in total", limit.total, balance.settled),
        ("a day", limit.day, balance.settled_day),
        ("a month", limit.month, balance.settled_month),
    ):
        if bound is not None and bound - settled - balance.held < least:
            least = bound - settled - balance.held
            words = (
                f"its limit is {usd(bound)} USD {name}, of which {usd(settled)} are spent "
                f"and {usd(balance.held)} held"
            )
    return max(0, least), words


#: A lease takes at most this part of what is left beyond the call it is for, so that several
#: processes come to the end of a budget together.
SHARE = 20


def grant(
    least: int, wanted: int, balances: Mapping[str, Balance], limits: Mapping[str, Limit]
) -> int | Refusal:
    """How much to lease from all these accounts at once: between `least` and `wanted`, or why
    not even `least`. Accounts without a limit in `limits` have none."""
    amount = wanted
    for name, balance in balances.items():
        if balance.frozen is not None:
            return Refusal(name, f"Account {name} is frozen: {balance.frozen}")
        left, words = room(balance, limits.get(name, Limit()))
        if left < least:
            return Refusal(name, f"The budget of {name} does not allow it: {words}.")
        amount = min(amount, least + (left - least) // SHARE)
    return max(least, amount)


@value()
class Entry:
    """One call in the books. `nano_usd` is None where its model has no price."""

    id: str
    at: float
    request: str
    project: str
    tier: str
    role: StageRole
    model: str
    key: str | None = None
    session: str | None = None
    job: str | None = None
    usage: Usage = NOTHING_USED
    nano_usd: int | None = None
    #: `exact`, or `estimated` where nobody knows the call's end and so its bill.
    basis: str = "exact"

    @property
    def cost(self) -> int:
        return self.nano_usd or 0

    @property
    def accounts(self) -> tuple[str, ...]:
        """Every account that this entry counts for, the widest first."""
        named = (("key", self.key), ("session", self.session), ("job", self.job))
        return (
            ALL,
            f"project:{self.project}",
            f"tier:{self.tier}",
            f"part:{'brain' if self.role in BRAIN else 'work'}",
            f"model:{self.model}",
            *(f"{kind}:{name}" for kind, name in named if name is not None),
        )


def limits_of(accounts: tuple[str, ...], limits: Mapping[str, Limit]) -> dict[str, Limit]:
    """The limits that bound these accounts: an account's own, or that of its kind (`key:*`)."""
    found = {}
    for account in accounts:
        limit = limits.get(account) or limits.get(f"{account.partition(':')[0]}:*")
        if limit:
            found[account] = limit
    return found


def opened(call: Call, entry_id: str, model: str, tier: str, at: float) -> Entry:
    """The entry of a call that is about to leave."""
    return Entry(
        id=entry_id,
        at=at,
        request=call.request or call.id,
        project=plain_name(call.project),
        key=call.key and plain_name(call.key),
        session=call.session and plain_name(call.session),
        job=call.job and plain_name(call.job),
        tier=tier,
        role=call.role,
        model=model,
    )


def plain_name(given: str) -> str:
    """A caller's name as every store can hold it."""
    if given.isprintable() and len(given) <= 200:
        return given
    return given[:200].encode("ascii", "backslashreplace").decode().replace("\0", "\\x00")


@dataclass(slots=True)
class Purse:
    """Leased budget in one process: `amount` is not settled yet, `reserved` is part of it."""

    amount: int = 0
    reserved: int = 0
    #: What was reserved since the last lease, to lease for as long next time.
    recent: int = 0

    @property
    def free(self) -> int:
        return self.amount - self.reserved

    def reserve(self, worst: int) -> bool:
        """Set a call's worst case aside. False if that needs a larger lease."""
        if worst > self.free:
            return False
        self.reserved += worst
        self.recent += worst
        return True

    def settle(self, worst: int, cost: int) -> int:
        """End a call that had reserved `worst`. Returns by how much its bill passed that."""
        self.reserved -= worst
        self.amount -= min(cost, worst)
        return max(0, cost - worst)
