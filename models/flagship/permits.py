"""The account of one provider's concurrent calls. Pure: it is told the time.

Holders (gateways) lease permits in batches and hand them out themselves. A holder that dies
returns nothing, so a lease ends when it is not renewed; until then its permits count as used,
because the dead holder's calls may still run at the provider.
"""

from __future__ import annotations

from dataclasses import dataclass

#: A holder that has not been heard of for so long is dead.
LEASE_S = 15.0
#: How long a lease that was refused makes the others share.
SHORT_S = 1.0


@dataclass(slots=True)
class _Lease:
    held: int = 0
    expires: float = 0.0
    #: Until then this holder counts as waiting for permits.
    short_until: float = float("-inf")


class Permits:
    """`capacity` permits, leased to holders by name. Times are seconds on any one clock.

    While a holder waits that has less than its even share, the others are held to theirs: a
    gateway that came late would otherwise get nothing from one that is busy with every permit.
    """

    def __init__(self, capacity: int, lease_s: float = LEASE_S) -> None:
        self.capacity = capacity
        self._lease_s = lease_s
        self._leases: dict[str, _Lease] = {}

    def in_use(self, now: float) -> int:
        """Permits leased at `now`."""
        self._expire(now)
        return sum(lease.held for lease in self._leases.values())

    def lease(self, holder: str, wanted: int, now: float) -> int:
        """Up to `wanted` more permits for this holder; returns how many it got."""
        free = self.capacity - self.in_use(now)
        lease = self._heard_of(holder, now)
        share = self._share(holder, now)
        own = max(0, share - lease.held)
        spare = free - self._promised(holder, share, now)
        granted = max(0, min(wanted, free, max(own, spare)))
        lease.held += granted
        lease.short_until = now + SHORT_S if granted == 0 < wanted else float("-inf")
        return granted

    def renew(self, holder: str, held: int, now: float) -> int:
        """Hear that this holder lives and holds `held`; returns how many it may keep.

        What it says is taken down, even if it is more than we knew of: after a restart of the
        account, or a renewal that came too late, its calls run all the same.
        """
        self._expire(now)
        lease = self._heard_of(holder, now)
        lease.held = held
        over = max(0, self.in_use(now) - self.capacity)
        keep = held - min(held, over)
        share = self._share(holder, now)
        return min(keep, share) if self._promised(holder, share, now) else keep

    def release(self, holder: str, n: int) -> None:
        """Take back `n` permits. Those of a lease that ended are back already."""
        if lease := self._leases.get(holder):
            lease.held = max(0, lease.held - n)

    def _heard_of(self, holder: str, now: float) -> _Lease:
        lease = self._leases.setdefault(holder, _Lease())
        lease.expires = now + self._lease_s
        return lease

    def _expire(self, now: float) -> None:
        for holder in [name for name, lease in self._leases.items() if lease.expires <= now]:
            del self._leases[holder]

    def _share(self, holder: str, now: float) -> int:
        """What each holder is entitled to while some wait."""
        holders = sum(
            1
            for name, lease in self._leases.items()
            if name == holder or lease.held or lease.short_until > now
        )
        return max(1, self.capacity // holders)

    def _promised(self, holder: str, share: int, now: float) -> int:
        """Permits that others wait for and that their share lacks."""
        return sum(
            max(0, share - lease.held)
            for name, lease in self._leases.items()
            if name != holder and lease.short_until > now
        )
