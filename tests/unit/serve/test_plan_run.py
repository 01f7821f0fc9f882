"""What a plan does next, without models or time."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.plans.graph import BadGraph, Graph, Limits, Subtask, parse
from serve.plans.run import (
    Action,
    Converge,
    Failed,
    Finished,
    GiveUp,
    Input,
    OutOfMoney,
    Replan,
    Replanned,
    Run,
    Start,
    items_of,
    verdict_of,
)

REJECTED = '{"accepted": false, "reason": "too short"}'


def subtask(name: str, *needs: str, kind: str = "write", **more: Any) -> dict[str, Any]:
    return {"id": name, "kind": kind, "task": f"do {name}", "needs": list(needs), **more}


def made(*subtasks: dict[str, Any]) -> Graph:
    return parse({"subtasks": list(subtasks)})


def ladder(subtask: Subtask, attempt: int) -> str | None:
    return ("cheap", "dear")[attempt] if attempt < 2 else None


def run(*subtasks: dict[str, Any], **more: Any) -> Run:
    return Run(made(*subtasks), ladder, **more)


def started(actions: list[Action]) -> list[str]:
    return [one.subtask.id for one in actions if isinstance(one, Start)]


# The graph


@pytest.mark.parametrize(
    ("subtasks", "words"),
    [
        ([], "at least 1"),
        ([subtask("a"), subtask("a")], "stand twice: a"),
        ([subtask("a", "b")], "'a' needs 'b', which does not exist"),
        ([subtask("a", "b"), subtask("b", "c"), subtask("c", "a")], "in a circle: a → b → c → a"),
        ([subtask("a", "a")], "in a circle: a → a"),
        ([subtask("a", kind="dance")], "subtasks.0.kind"),
        ([subtask("a", kind="check")], "checks nothing"),
        ([subtask("a", each="b"), subtask("b")], "which is no list"),
        ([subtask("a", colour="red")], "subtasks.0.colour"),
        ([subtask("A b")], "subtasks.0.id"),
        ([subtask("a", list=True), subtask("c", "a", kind="check")], "checks the list"),
        ([subtask(f"s{n}") for n in range(1000)], "1000 subtasks; at most 256"),
        ([subtask(f"s{n}") for n in range(65)], "65 subtasks stand side by side"),
        (
            [subtask("s0"), *(subtask(f"s{n}", f"s{n - 1}") for n in range(1, 17))],
            "17 subtasks stand one behind the other",
        ),
    ],
)
def test_what_is_no_plan_says_why(subtasks: list[Any], words: str) -> None:
    with pytest.raises(BadGraph, match=words):
        parse({"subtasks": subtasks})


def test_a_long_chain_needs_no_deep_stack() -> None:
    chain = [subtask("s0"), *(subtask(f"s{n}", f"s{n - 1}") for n in range(1, 5000))]
    parse({"subtasks": chain}, Limits(subtasks=5000, depth=5000))
    chain[0]["needs"] = ["s4999"]
    with pytest.raises(BadGraph, match="circle"):
        parse({"subtasks": chain}, Limits(subtasks=5000, depth=5000))


# The way of a plan


def test_what_is_ready_starts_at_once_and_results_flow_along_the_edges() -> None:
    state = run(subtask("a"), subtask("b"), subtask("c", "a", "b"))
    assert started(state.start()) == ["a", "b"]
    assert state.on(Finished("b", "B")) == []
    [action] = state.on(Finished("a", "A"))
    assert isinstance(action, Start)
    assert (action.subtask.id, action.inputs) == ("c", (Input("a", "A"), Input("b", "B")))
    [end] = state.on(Finished("c", "C"))
    assert end == Converge((Input("a", "A"), Input("b", "B"), Input("c", "C")), ())


def test_what_an_extract_has_taken_up_is_not_read_again_by_the_writer() -> None:
    state = run(
        subtask("a", kind="read"),
        subtask("b", kind="read"),
        subtask("found", "a", "b", kind="extract"),
        subtask("choice", "found", kind="decide"),
    )
    state.start()
    for name in ("a", "b", "found"):
        state.on(Finished(name, name.upper()))
    [end] = state.on(Finished("choice", "C"))
    assert end == Converge((Input("found", "FOUND"), Input("choice", "C")), ())


def test_at_most_so_many_at_a_time() -> None:
    state = run(*(subtask(f"s{n}") for n in range(5)), parallel=2)
    assert started(state.start()) == ["s0", "s1"]
    assert started(state.on(Finished("s0", "x"))) == ["s2"]


def test_a_failure_is_tried_one_rung_up_then_planned_around() -> None:
    state = run(subtask("a"), subtask("b", "a"))
    state.start()
    [again] = state.on(Failed("a", "no"))
    assert isinstance(again, Start)
    assert (again.name, again.attempt) == ("dear", 2)
    [replan] = state.on(Failed("a", "still no"))
    assert isinstance(replan, Replan)
    new = tuple(Subtask(**subtask(*one)) for one in [("x",), ("y", "x")])
    assert started(state.on(Replanned("a", new))) == ["x"]
    assert started(state.on(Finished("x", "X"))) == ["y"]
    [action] = state.on(Finished("y", "Y"))
    assert isinstance(action, Start)
    assert (action.subtask.id, action.inputs) == ("b", (Input("y", "Y"),))


def test_who_needs_what_never_came_goes_on_with_the_rest() -> None:
    state = run(subtask("a"), subtask("b"), subtask("c", "a", "b"), subtask("d", "a"), replans=0)
    state.start()
    state.on(Failed("a", "no"))
    state.on(Failed("a", "no"))
    [action] = state.on(Finished("b", "B"))
    assert isinstance(action, Start)
    assert action.inputs == (Input("a", None), Input("b", "B"))
    [end] = state.on(Finished("c", "C"))
    assert isinstance(end, Converge)
    assert end.missing == ("a", "d")
    assert state.steps["d"].status == "skipped"


def test_nothing_at_all_is_no_answer() -> None:
    state = run(subtask("a"), replans=0)
    state.start()
    state.on(Failed("a", "no"))
    [end] = state.on(Failed("a", "broken pipe"))
    assert isinstance(end, GiveUp)
    assert "broken pipe" in end.error


def test_a_check_sends_back_what_it_judges_and_what_follows_waits_for_it() -> None:
    state = run(subtask("a"), subtask("c", "a", kind="check"), subtask("b", "a"))
    state.start()
    assert started(state.on(Finished("a", "bad"))) == ["c"], "b is not built upon the unchecked"
    [again] = state.on(Finished("c", '{"accepted": false, "reason": "too short"}'))
    assert isinstance(again, Start)
    assert (again.subtask.id, again.name, again.feedback) == ("a", "dear", "too short")
    [check] = state.on(Finished("a", "good"))
    assert isinstance(check, Start)
    assert check.inputs == (Input("a", "good"),)
    assert started(state.on(Finished("c", 'Fine: {"accepted": true, "reason": ""}'))) == ["b"]
    assert state.steps["a"].accepted is True


def test_what_is_rejected_at_the_top_of_the_ladder_stands_and_says_so() -> None:
    state = run(subtask("a"), subtask("c", "a", kind="check"))
    state.start()
    for text in ("bad", "still bad"):
        state.on(Finished("a", text))
        actions = state.on(Finished("c", '{"accepted": false, "reason": "no"}'))
    assert isinstance(actions[-1], Converge)
    assert state.steps["a"].accepted is False


def test_a_check_that_says_nothing_readable_is_asked_one_rung_up_and_then_left() -> None:
    state = run(subtask("a"), subtask("c", "a", kind="check"), replans=0)
    state.start()
    state.on(Finished("a", "A"))
    [again] = state.on(Finished("c", "I like it."))
    assert isinstance(again, Start)
    assert again.name == "dear"
    [end] = state.on(Finished("c", "Me too."))
    assert isinstance(end, Converge)
    assert (end.missing, state.steps["a"].accepted) == (("c",), None)


def test_two_checks_of_one_thing_do_not_wait_for_each_other() -> None:
    state = run(
        subtask("a"),
        subtask("b", "a"),
        subtask("c", "a", kind="check"),
        subtask("d", "a", "b", kind="check"),
    )
    state.start()
    assert started(state.on(Finished("a", "A"))) == ["c"]
    assert started(state.on(Finished("c", '{"accepted": true}'))) == ["b"]
    assert started(state.on(Finished("b", "B"))) == ["d"]


def test_a_list_is_taken_apart() -> None:
    state = run(subtask("list", list=True), subtask("part", each="list"), subtask("whole", "part"))
    assert started(state.start()) == ["list"]
    actions = state.on(Finished("list", '{"items": ["one", "two"]}'))
    assert started(actions) == ["part-1", "part-2"]
    first = actions[0]
    assert isinstance(first, Start)
    assert first.subtask.task.endswith("This one:\none")
    state.on(Finished("part-1", "1"))
    [action] = state.on(Finished("part-2", "2"))
    assert isinstance(action, Start)
    assert action.inputs == (Input("part-1", "1"), Input("part-2", "2"))


def test_a_list_that_is_none_is_asked_for_again_and_its_parts_are_skipped() -> None:
    state = run(subtask("a"), subtask("list", list=True), subtask("part", each="list"), replans=0)
    state.start()
    state.on(Finished("a", "A"))
    assert started(state.on(Finished("list", "There are none."))) == ["list"]
    [end] = state.on(Finished("list", ""))
    assert isinstance(end, Converge)
    assert end.missing == ("list", "part")


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ('{"items": ["a", " b "]}', ("a", "b")),
        ('Here: ["a", {"b": 1}]', ("a", '{"b": 1}')),
        ("1. a\n2) b\n- c\nwords", ("a", "b", "c")),
        ("nothing", ()),
        ("[1, 2", ()),
    ],
)
def test_lists_in_every_hand(text: str, items: tuple[str, ...]) -> None:
    assert items_of(text) == items


def test_a_verdict_that_is_none() -> None:
    assert verdict_of('{"accepted": "yes"}') is None
    assert verdict_of("[" * 100_000) is None


# Money


def test_who_lacks_money_waits_for_what_others_give_back() -> None:
    state = run(subtask("a"), subtask("b"), subtask("c"))
    state.start()
    assert state.on(OutOfMoney("b")) == []
    assert started(state.on(Finished("a", "A"))) == ["b"]
    assert not state.broke


def test_when_nobody_can_give_back_the_plan_ends_with_what_is_done() -> None:
    state = run(subtask("a"), subtask("b"), subtask("c", "b"), parallel=1)
    state.start()
    state.on(Finished("a", "A"))
    [end] = state.on(OutOfMoney("b"))
    assert end == Converge((Input("a", "A"),), ("b", "c"))


# After a restart


def test_a_part_of_a_list_takes_nobodys_name() -> None:
    long = "x" * 36
    state = run(
        subtask("l", list=True),
        subtask("a", each="l"),
        subtask("a-1", "l"),
        subtask(f"{long}y", each="l"),
        subtask(f"{long}z", each="l"),
    )
    state.start()
    names = started(state.on(Finished("l", '["p", "q"]')))
    assert len(names) == len(set(names)) == len(state.steps) - 1 == 7
    assert {"a-1", "a-1-1", "a-2"} < set(names)
    parse({"subtasks": [one.model_dump() for one in state.graph.subtasks]})


def test_a_list_that_fails_is_not_planned_around() -> None:
    state = run(subtask("l", list=True), subtask("e", each="l"), subtask("b"))
    state.start()
    state.on(Finished("b", "B"))
    state.on(Failed("l", "down"))
    [end] = state.on(Failed("l", "still down"))
    assert end == Converge((Input("b", "B"),), ("l", "e"))


def test_what_a_check_rejected_is_done_again_after_a_restart() -> None:
    subtasks = subtask("a"), subtask("c", "a", kind="check"), subtask("b", "a")
    state = run(*subtasks)
    state.start()
    state.on(Finished("a", "A"))
    [before] = state.on(Finished("c", REJECTED))
    done = {"a": "A", "c": REJECTED}
    assert run(*subtasks).start(done, {"a": 1, "c": 1}) == [before]
    # It was done anew before the restart, and nobody has looked at that yet.
    assert started(run(*subtasks).start({"c": REJECTED, "a": "A2"}, {"a": 2, "c": 1})) == ["c"]
    # Nobody is left who could do it again: it stands, as it did before.
    assert started(run(*subtasks).start(done, {"a": 2, "c": 2})) == ["b"]


def test_a_list_that_was_none_before_a_restart_is_asked_for_again() -> None:
    state = run(subtask("l", list=True), subtask("e", each="l"))
    assert started(state.start({"l": "I cannot make a list."})) == ["l"]


def test_what_is_done_is_not_done_again() -> None:
    state = run(subtask("a"), subtask("b", "a"), subtask("c", "b"))
    [action] = state.start({"a": "A", "b": "B"})
    assert isinstance(action, Start)
    assert (action.subtask.id, action.inputs) == ("c", (Input("b", "B"),))


# Whatever happens


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    count = draw(st.integers(1, 12))
    subtasks = []
    for number in range(count):
        before = [f"s{one}" for one in range(number)]
        needs = draw(st.lists(st.sampled_from(before), max_size=3, unique=True)) if before else []
        kind = "check" if needs and draw(st.booleans()) else "write"
        subtasks.append(subtask(f"s{number}", *needs, kind=kind))
    return made(*subtasks)


@settings(max_examples=60)
@given(graphs(), st.integers(1, 4), st.integers(0, 2**32))
def test_every_plan_ends_whatever_happens(graph: Graph, parallel: int, seed: int) -> None:
    chance = random.Random(seed)
    state = Run(graph, ladder, parallel=parallel)
    running: set[str] = set()
    actions = state.start()
    for _ in range(500):
        ends = [one for one in actions if isinstance(one, Converge | GiveUp)]
        if ends:
            assert len(ends) == 1
            assert not running
            if isinstance(ends[0], Converge):
                done = {one.id for one in ends[0].results}
                assert done | set(ends[0].missing) == set(state.steps)
            return
        running |= set(started(actions))
        assert len(running) <= parallel
        replans = [one for one in actions if isinstance(one, Replan)]
        if replans:
            name = replans[0].subtask.id
            fresh = (Subtask(**subtask(f"new-{name}")),) if chance.random() < 0.5 else ()
            actions = state.on(Replanned(name, fresh))
            continue
        name = chance.choice(sorted(running))
        running.discard(name)
        verdict = f'{{"accepted": {chance.choice(["true", "false", "7"])}}}'
        event = chance.choice(
            [Finished(name, verdict), Finished(name, "text"), Failed(name, "no"), OutOfMoney(name)]
        )
        actions = state.on(event)
    raise AssertionError("the plan goes on for ever")
