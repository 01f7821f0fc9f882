"""The window against clusters whose capacity it is not told."""

from __future__ import annotations

from serve.jobs.window import Window


def run(window: Window, capacity: int, generations: int, now: float = 0.0) -> float:
    """A cluster that answers `capacity` rows at a time, each in a second."""
    window.start(now)
    for _ in range(generations):
        rows = window.size
        now += max(1.0, rows / capacity)
        window.ended(rows, now)
    return now


def test_it_grows_to_what_the_cluster_can_do_and_no_further() -> None:
    window = Window(size=4)
    run(window, capacity=100, generations=12)
    assert 64 <= window.size <= 256


def test_it_follows_a_cluster_that_has_grown() -> None:
    window = Window(size=4)
    now = run(window, capacity=16, generations=10)
    assert window.size <= 32
    run(window, capacity=400, generations=40, now=now)
    assert window.size >= 128


def test_an_overload_halves_it_down_to_one() -> None:
    window = Window(size=64)
    window.overloaded(0.0)
    assert window.size == 32
    for _ in range(10):
        window.overloaded(0.0)
    assert window.size == 1


def test_it_has_an_end() -> None:
    window = Window(size=16, most=100)
    run(window, capacity=1_000_000, generations=30)
    assert window.size == 100
