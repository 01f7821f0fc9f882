from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from models.errors import Unavailable
from models.messages import Source
from models.tools.documents import Search, index_of
from models.tools.index import PASSAGE_CHARS, Index, passages
from models.tools.settings import Documents


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "notes"
    (made / "deep").mkdir(parents=True)
    (made / "sky.md").write_text("# Why the sky is blue\n\nAir scatters short waves.\n", "utf-8")
    (made / "deep" / "sea.txt").write_text("The sea mirrors the sky.\n", "utf-8")
    (made / "page.html").write_text("<html><title>Über Wolken</title>Regen</html>", "utf-8")
    (made / "photo.jpg").write_bytes(b"sky")
    (made / ".hidden.md").write_text("secret sky", "utf-8")
    return made


@pytest.fixture
def index(folder: Path, tmp_path: Path) -> Index:
    return Index(tmp_path / "cache" / "index.db", folder, (".md", ".txt", ".html"), 1_000_000)


def paths(index: Index, query: str) -> list[str]:
    return [found.path for found in index.search(query, 10)]


def test_texts_are_found_with_their_titles(index: Index) -> None:
    assert index.refresh() == 3
    assert {found.path: found.title for found in index.search("sky", 10)} == {
        "sky.md": "Why the sky is blue",
        "deep/sea.txt": "The sea mirrors the sky.",
    }
    assert index.search("wolken", 10)[0].title == "Über Wolken"


@pytest.mark.parametrize("query", ["scattering", "WAVES", "nothing at all scatters"])
def test_words_are_found_in_other_forms_and_company(index: Index, query: str) -> None:
    index.refresh()
    assert paths(index, query) == ["sky.md"]


def test_accents_do_not_matter(index: Index) -> None:
    index.refresh()
    assert paths(index, "uber") == ["page.html"]


def test_only_what_changed_is_read_again(index: Index, folder: Path) -> None:
    index.refresh()
    assert index.refresh() == 0
    (folder / "sky.md").write_text("# Green grass\n", "utf-8")
    (folder / "new.md").write_text("# Red roses\n", "utf-8")
    (folder / "page.html").unlink()
    assert index.refresh() == 3
    assert paths(index, "scatters") == []
    assert paths(index, "grass roses") == ["new.md", "sky.md"]
    assert paths(index, "Regen") == []


def test_a_change_within_the_same_size_is_seen_by_its_time(index: Index, folder: Path) -> None:
    index.refresh()
    (folder / "deep" / "sea.txt").write_text("The sea mirrors the sun.\n", "utf-8")
    os.utime(folder / "deep" / "sea.txt", ns=(1, 1))
    index.refresh()
    assert paths(index, "sun") == ["deep/sea.txt"]


@pytest.mark.parametrize(
    "query", ["", "***", '"', "sky AND", 'NEAR("a" b)', "title:", "-sky", "a*"]
)
def test_no_query_is_an_error(index: Index, query: str) -> None:
    index.refresh()
    index.search(query, 5)


def test_links_out_of_the_folder_are_not_followed(
    index: Index, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "private.txt").write_text("the crown jewels", "utf-8")
    (folder / "link.txt").symlink_to(tmp_path / "private.txt")
    (folder / "round").symlink_to(folder)
    (folder / "broken.txt").symlink_to(folder / "nothing")
    index.refresh()
    assert paths(index, "jewels") == []


def test_bytes_that_are_no_text(index: Index, folder: Path) -> None:
    (folder / "latin.txt").write_bytes("größer sky".encode("latin-1"))
    (folder / "binary.txt").write_bytes(b"sky\0" * 100)
    (folder / "large.txt").write_bytes(b"sky " * 300_000)
    index.refresh()
    assert set(paths(index, "sky")) == {"sky.md", "deep/sea.txt", "latin.txt"}


def test_a_long_text_is_found_at_its_place(index: Index, folder: Path) -> None:
    text = "filler words here. " * 500 + "\n\nThe needle.\n\n" + "more filler. " * 500
    (folder / "long.txt").write_text(text, "utf-8")
    index.refresh()
    (found,) = index.search("needle", 10)
    assert "needle" in found.text
    assert len(found.text) <= PASSAGE_CHARS
    whole = index.text("long.txt")
    assert whole
    assert whole.text == text


@pytest.mark.parametrize("text", ["", "a", "x" * 5000, "word " * 2000, "line\n\n" * 900])
def test_passages_together_are_the_text(text: str) -> None:
    pieces = list(passages(text))
    assert "".join(pieces) == text
    assert all(len(piece) <= PASSAGE_CHARS for piece in pieces)


def test_several_processes_may_bring_it_up_to_date_at_once(index: Index) -> None:
    read: list[int] = []
    threads = [threading.Thread(target=lambda: read.append(index.refresh())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read) == [0, 0, 0, 3]
    assert len(paths(index, "sky")) == 2


def tool(index: Index, fresh_s: float = 0) -> Search:
    return Search(Documents(folder=str(index.folder), fresh_s=fresh_s), index)


async def test_a_search_brings_the_index_up_to_date_first(index: Index, folder: Path) -> None:
    search = tool(index)
    result = await search.run({"query": "scatters"})
    assert "path: sky.md" in result.text
    assert result.sources == (Source("documents:sky.md", "Why the sky is blue"),)
    (folder / "late.md").write_text("# Late\n", "utf-8")
    assert "path: late.md" in (await search.run({"query": "late"})).text


async def test_within_its_time_the_folder_is_not_looked_at_again(
    index: Index, folder: Path
) -> None:
    search = tool(index, fresh_s=60)
    await search.run({"query": "sky"})
    (folder / "late.md").write_text("# Late\n", "utf-8")
    assert (await search.run({"query": "late"})).sources == ()


async def test_a_request_says_how_many_passages_it_wants(index: Index, folder: Path) -> None:
    search = tool(index, fresh_s=60)
    assert len((await search.run({"query": "sky"})).sources) == 2
    limited = search.limited({"max_results": 1})
    (folder / "late.md").write_text("# Late\n", "utf-8")
    assert len((await limited.run({"query": "sky"})).sources) == 1
    # It is the same index, which has been looked after already.
    assert (await limited.run({"query": "late"})).sources == ()


async def test_a_document_is_read_whole(index: Index) -> None:
    result = await tool(index).run({"path": "deep/sea.txt"})
    assert result.text.endswith("The sea mirrors the sky.\n")


@pytest.mark.parametrize("path", ["../private.txt", "/etc/passwd", "photo.jpg", ".hidden.md"])
async def test_only_what_is_indexed_is_read(index: Index, path: str) -> None:
    with pytest.raises(ValueError, match="no document"):
        await tool(index).run({"path": path})


async def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db", tmp_path / "nowhere", (".md",), 1000)
    with pytest.raises(Unavailable, match="folder"):
        await tool(index).run({"query": "x"})


def test_each_folder_has_its_own_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, two = (index_of(Documents(folder=str(tmp_path / name))) for name in "ab")
    assert one.file != two.file
    assert one.file.is_relative_to(tmp_path)


def test_a_name_that_is_no_text_is_left_out(index: Index, folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt"))).write_text("sky", "utf-8")
    assert index.refresh() == 3
