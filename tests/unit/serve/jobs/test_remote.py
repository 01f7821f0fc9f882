"""Batches of a server elsewhere: what becomes of a file that no batch was made of."""

from __future__ import annotations

from typing import Any

import pytest

from serve.jobs.remote import Remote, RemoteError


@pytest.mark.parametrize(("status", "deleted"), [(400, ["file_1"]), (503, []), (None, [])])
def test_a_file_goes_only_where_its_batch_was_refused(
    monkeypatch: pytest.MonkeyPatch, status: int | None, deleted: list[str]
) -> None:
    gone: list[str] = []

    def refuse(*_: Any) -> None:
        raise RemoteError("No.", status)

    monkeypatch.setattr(Remote, "post", refuse)
    monkeypatch.setattr(Remote, "_delete", lambda _, file: gone.append(file))
    with pytest.raises(RemoteError):
        Remote("http://127.0.0.1:1").create("file_1")
    assert gone == deleted
