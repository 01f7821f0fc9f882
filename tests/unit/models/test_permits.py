from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.flagship.permits import SHORT_S, Permits


def test_no_more_is_leased_than_there_is() -> None:
    permits = Permits(5)
    assert permits.lease("a", 3, now=0) == 3
    assert permits.lease("b", 3, now=0) == 2
    assert permits.lease("b", 1, now=0) == 0


def test_what_is_released_can_be_leased_again() -> None:
    permits = Permits(2)
    permits.lease("a", 2, now=0)
    permits.release("a", 1)
    assert permits.lease("b", 2, now=0) == 1


def test_nobody_returns_more_than_he_holds() -> None:
    permits = Permits(2)
    permits.lease("a", 1, now=0)
    permits.release("a", 5)
    permits.release("stranger", 5)
    assert permits.in_use(0) == 0
    assert permits.lease("b", 5, now=0) == 2


def test_a_dead_holders_permits_count_until_its_lease_ends() -> None:
    permits = Permits(2, lease_s=10)
    permits.lease("dead", 2, now=0)
    assert permits.lease("b", 1, now=9.9) == 0
    assert permits.lease("b", 1, now=10) == 1


def test_a_renewed_lease_goes_on() -> None:
    permits = Permits(2, lease_s=10)
    permits.lease("a", 2, now=0)
    assert permits.renew("a", 2, now=9) == 2
    assert permits.lease("b", 1, now=18) == 0


def test_a_renewal_says_what_is_held() -> None:
    # The answer to a lease was lost on its way: the holder never knew of its permit.
    permits = Permits(2)
    permits.lease("a", 2, now=0)
    permits.renew("a", 1, now=1)
    assert permits.lease("b", 1, now=1) == 1


def test_after_a_restart_what_still_runs_is_counted_and_drained() -> None:
    permits = Permits(2)
    assert permits.lease("b", 2, now=0) == 2
    assert permits.renew("a", 2, now=0) == 0
    permits.release("b", 2)
    assert permits.lease("b", 1, now=0) == 0
    permits.renew("a", 0, now=0)
    assert permits.lease("b", 1, now=0) == 1


def test_while_one_waits_the_others_keep_their_share() -> None:
    permits = Permits(4)
    permits.lease("a", 4, now=0)
    assert permits.lease("late", 2, now=0) == 0
    assert permits.renew("a", 4, now=0.5) == 2
    permits.renew("a", 2, now=0.6)
    assert permits.lease("a", 1, now=0.6) == 0
    assert permits.lease("late", 9, now=0.6) == 2
    assert permits.renew("a", 2, now=0.6 + 2 * SHORT_S) == 2


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, str, int, float]:
    return (
        draw(st.sampled_from(["lease", "lease", "release", "renew"])),
        draw(st.sampled_from("abc")),
        draw(st.integers(0, 12)),
        draw(st.sampled_from([0.0, 0.1, 1.0, 9.0, 30.0])),
    )


@given(st.integers(1, 10), st.lists(steps(), max_size=60))
def test_never_more_than_capacity_is_leased(
    capacity: int, script: list[tuple[str, str, int, float]]
) -> None:
    """Holders that keep what they may, forget what has ended, and die and come back."""
    permits = Permits(capacity, lease_s=10)
    held: dict[str, int] = {}
    heard: dict[str, float] = {}
    now = 0.0
    for what, who, n, later in script:
        now += later
        held = {name: count for name, count in held.items() if heard[name] + 10 > now}
        mine = held.get(who, 0)
        if what == "lease":
            granted = permits.lease(who, n, now)
            assert 0 <= granted <= n
            held[who], heard[who] = mine + granted, now
        elif what == "release":
            permits.release(who, min(n, mine))
            held[who] = mine - min(n, mine)
            heard.setdefault(who, now)
        else:
            mine = min(n, mine)
            keep = permits.renew(who, mine, now)
            assert 0 <= keep <= mine
            held[who], heard[who] = mine, now
        assert sum(held.values()) == permits.in_use(now) <= capacity


@given(st.integers(1, 20), st.integers(1, 6))
def test_greedy_gateways_leave_each_other_a_permit(capacity: int, gateways: int) -> None:
    """The first one takes all and every one always wants more."""
    permits, held = Permits(capacity), dict.fromkeys(map(str, range(gateways)), 0)
    for round_ in range(4):
        now = round_ / 10
        for name in held:
            held[name] += permits.lease(name, capacity, now)
        assert sum(held.values()) <= capacity
        if round_ == 3:
            break
        for name in held:
            held[name] = permits.renew(name, held[name], now)
            permits.renew(name, held[name], now)
    assert sum(count > 0 for count in held.values()) == min(capacity, gateways)
    assert sum(held.values()) == capacity
