"""Ids that nobody can guess or give twice, and the calls within a call."""

from __future__ import annotations

import os
import re

from models.call import Call, new_id


def test_ids_are_96_random_bits_and_none_comes_twice() -> None:
    ids = [new_id("req") for _ in range(1000)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", one) for one in ids)


def test_a_forked_process_gives_ids_of_its_own() -> None:
    new_id("req")  # some are in stock
    read, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, new_id("req").encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 100).decode()
    os.close(read)
    os.close(write)
    assert theirs.startswith("req_")
    assert theirs != new_id("req")


def test_a_child_keeps_the_circumstances_and_has_an_id_and_a_deadline_of_its_own() -> None:
    call = Call(id="req_1", project="blue", deadline=100.0, idempotency_key="once")
    child = call.child("panelist", 60.0)
    assert child.id.startswith("call_")
    assert (child.request, child.role, child.project) == ("req_1", "panelist", "blue")
    assert (child.deadline, child.idempotency_key) == (60.0, None)
    assert child.child("judge").deadline == 60.0
    assert child.child("judge").request == "req_1"
