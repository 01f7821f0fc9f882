"""The ledger's arithmetic and its journal."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.call import Call
from models.messages import Usage
from serve.money.journal import Journal, abandoned, read
from serve.money.ledger import (
    MOST,
    Balance,
    Entry,
    Limit,
    Purse,
    Refusal,
    day_of,
    grant,
    limits_of,
    opened,
    room,
)

USD = 10**9
TODAY = 20261122


def entry(name: str, cost: int | None = None) -> Entry:
    return Entry(
        name, 1.5, "req_1", "default", "flagship", "answer", "gpt", usage=Usage(3, 4), nano_usd=cost
    )


def test_a_refusal_says_which_limit_and_how_much_is_left() -> None:
    balance = Balance("all", settled=USD, day=TODAY, settled_day=USD, month=202611, held=5)
    refusal = grant(10, 100, {"all": balance}, {"all": Limit(total=2 * USD, day=USD + 6)})
    assert isinstance(refusal, Refusal)
    assert "1.000000006 USD a day" in refusal.reason
    assert "0.00000001 USD" in refusal.message(10)


def test_a_frozen_account_gives_nothing() -> None:
    refusal = grant(0, 0, {"all": Balance("all", frozen="a bill was too high")}, {})
    assert isinstance(refusal, Refusal)
    assert "a bill was too high" in refusal.reason


def test_an_account_without_a_limit_ends_where_the_store_does() -> None:
    left, _ = room(Balance("all", settled=MOST - 3), Limit())
    assert left == 3


def test_a_limit_below_what_is_spent_leaves_nothing() -> None:
    assert room(Balance("all", settled=10), Limit(total=5))[0] == 0


@given(
    settled=st.integers(0, 10**12),
    held=st.integers(0, 10**12),
    limit=st.integers(0, 10**13),
    least=st.integers(0, 10**12),
    more=st.integers(0, 10**12),
)
def test_a_grant_never_passes_a_limit(
    settled: int, held: int, limit: int, least: int, more: int
) -> None:
    balance = Balance("a", settled=settled, held=held)
    granted = grant(least, least + more, {"a": balance}, {"a": Limit(total=limit)})
    if isinstance(granted, Refusal):
        assert settled + held + least > limit
    else:
        assert least <= granted <= least + more
        # Nothing may be leased also where a limit was set below what is spent already.
        assert granted == 0 or settled + held + granted <= limit


def test_a_new_day_and_a_new_month_begin_at_nothing() -> None:
    balance = Balance("a", 9, TODAY, 5, 202611, 7)
    assert (balance.at(20261123).settled_day, balance.at(20261123).settled_month) == (0, 7)
    assert balance.at(20261201).settled_month == 0
    assert balance.at(20261201).settled == 9


def test_a_clock_that_goes_back_forgets_nothing() -> None:
    balance = Balance("a", 9, TODAY, 5, 202611, 7)
    assert balance.at(20261031) == balance
    assert day_of(1_795_305_600.0 + 86_399) == TODAY


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 80))))
def test_a_purse_spends_no_more_than_was_leased(calls: list[tuple[int, int]]) -> None:
    purse, spent = Purse(200), 0
    for worst, bill in calls:
        if purse.reserve(worst):
            passed = purse.settle(worst, bill)
            assert passed == max(0, bill - worst)
            spent += bill - passed
    assert spent + purse.amount == 200
    assert purse.reserved == 0
    assert purse.amount >= 0


def test_an_entry_counts_for_every_account_of_its_call() -> None:
    call = Call(project="p", key="k", session="s", job="j")
    made = opened(call.child("judge"), "led_1", "gpt", "flagship", 1.0)
    assert made.request == call.id
    assert made.accounts == (
        *("all", "project:p", "tier:flagship", "part:brain", "model:gpt"),
        *("key:k", "session:s", "job:j"),
    )


def test_an_accounts_own_limit_comes_before_that_of_its_kind() -> None:
    limits = {"key:*": Limit(day=1), "key:k": Limit(day=2), "all": Limit()}
    assert limits_of(("all", "key:k", "key:other"), limits) == {
        "key:k": Limit(day=2),
        "key:other": Limit(day=1),
    }


def test_a_dead_process_leaves_what_ended_and_what_did_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "one.journal")
    for name in ("a", "b", "c"):
        journal.opened(entry(name), "lease", 100)
    journal.ended(entry("a", 40))
    journal.ended(entry("b", 50))
    journal.settled(["b", "a"])
    journal.ended(entry("c", 60))
    journal.opened(entry("d"), "lease", 70)
    assert list(abandoned(tmp_path)) == []  # its process lives
    os.close(journal._file)
    ((path, left),) = abandoned(tmp_path)
    assert path == tmp_path / "one.journal"
    assert left.open == {"lease": [(entry("d"), 70)]}
    # What the store knows already is settled again by the same id, and so not twice.
    assert (entry("c", 60), 100) in left.ended["lease"]


def test_a_journal_is_empty_when_the_store_knows_all(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "one.journal")
    journal.opened(entry("a"), "lease", 100)
    journal.ended(entry("a", 1))
    journal.settled(["a"])
    assert journal.path.read_bytes() == b""
    journal.close()
    assert not journal.path.exists()


def test_a_long_journal_is_written_anew_and_stays_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.money.journal._COMPACT_BYTES", 100)
    journal = Journal(tmp_path / "one.journal")
    for name in ("a", "b"):
        journal.opened(entry(name), "lease", 100)
    journal.settled(["a"])
    assert list(read(journal.path.read_bytes()).open) == ["lease"]
    assert read(journal.path.read_bytes()).open["lease"] == [(entry("b"), 100)]
    assert list(abandoned(tmp_path)) == []


def test_a_long_journal_on_a_full_disk_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.money.journal._COMPACT_BYTES", 100)
    journal, write = Journal(tmp_path / "one.journal"), os.write
    for name in ("a", "b", "c"):
        journal.opened(entry(name), "lease", 100)
    before, files = journal.path.read_bytes(), len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, content: write(file, content[: len(content) // 2]))
        journal.settled(["a"])
    assert journal.path.read_bytes() == before
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    assert list(tmp_path.iterdir()) == [journal.path]
    journal.settled([])
    assert read(journal.path.read_bytes()).open["lease"] == [(entry("b"), 100), (entry("c"), 100)]


def test_a_closed_journal_writes_into_no_other_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "one.journal")
    journal.opened(entry("a"), "lease", 100)
    journal.close()
    with (tmp_path / "other").open("wb", buffering=0):  # which gets the journal's number
        journal.ended(entry("a", 1))
    assert (tmp_path / "other").read_bytes() == b""


def test_a_journal_is_locked_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = []

    def flock(file: int, _: int) -> None:
        named.append(list(tmp_path.glob("*.journal")))

    monkeypatch.setattr("fcntl.flock", flock)
    Journal(tmp_path / "one.journal")
    assert named == [[]]


def test_a_torn_line_is_a_call_that_never_left(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "one.journal")
    journal.opened(entry("a"), "lease", 100)
    whole = journal.path.read_bytes()
    assert read(whole + whole[: len(whole) // 2]).open == {"lease": [(entry("a"), 100)]}


def test_unpriced_entries_cost_nothing_and_say_so() -> None:
    assert entry("a").cost == 0
    assert replace(entry("a"), nano_usd=7).cost == 7
