"""Research: its steps, its document, and the command as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import batch_server
import pytest
from typer.testing import CliRunner

from models.messages import Completion, Stage, Usage, assistant
from serve.cli import app
from serve.evaluation.evidence import Citation, Stored, check
from serve.evaluation.research import (
    MOST_CHARS,
    SEARCHES,
    UNPROVEN,
    chosen,
    markdown,
    read_plan,
    report_request,
    room,
)
from serve.jobs.asking import Ask, Reply
from serve.jobs.fake import FakeAsker

SOURCES = [
    Stored("a.md", "Bees", "Bees see ultraviolet light.\nThey cannot see red."),
    Stored("b.md", "Birds", "Most birds see ultraviolet light too."),
]


def test_a_plan_that_is_none_searches_for_the_question() -> None:
    assert read_plan("I would look around.", "Why?") == ["Why?"]
    assert read_plan('{"searches": ["b", " ", "Why?"]}', "Why?") == ["Why?", "b"]
    many = json.dumps({"searches": [str(n) for n in range(20)]})
    assert len(read_plan(many, "Why?")) == SEARCHES + 1


def test_sources_are_joined_by_document_and_have_an_end() -> None:
    found = chosen([SOURCES[0], SOURCES[1], SOURCES[0], Stored("a.md", "Bees", "More.")])
    assert [(one.url, "More." in one.text) for one in found] == [("a.md", True), ("b.md", False)]
    assert found[0].text.count("ultraviolet") == 1
    assert sum(len(one.text) for one in chosen(SOURCES, most_chars=30)) == 30


def test_small_windows_are_shown_less() -> None:
    assert room(8192) == 6144
    assert room(1_000_000) == room(None) == MOST_CHARS


def test_a_report_that_cites_nothing_says_so() -> None:
    rows = [{"id": "report", "analysis": None, "stages": None}]
    cited = check('They do [1: "They cannot see red."].', SOURCES)
    assert UNPROVEN not in markdown("Who?", cited, SOURCES, (), rows)
    assert UNPROVEN in markdown("Who?", check("Bees.", SOURCES), SOURCES, (), rows)


def test_a_report_is_shown_what_was_picked_and_says_what_it_left() -> None:
    picked = [Citation(1, "They cannot see red."), Citation(2, SOURCES[1].text)]
    prompt = report_request("Who?", SOURCES, picked, "panel")["prompt"]
    assert '- [1: "They cannot see red."]' in prompt
    assert "were found in them" not in report_request("Who?", SOURCES, (), "panel")["prompt"]
    rows = [{"id": "report", "analysis": None, "stages": None}]
    text = markdown(
        "Who?", check('So [1: "They cannot\nsee red."].', SOURCES), SOURCES, picked, rows
    )
    evidence = text.partition("## Evidence")[2].partition("##")[0]
    assert f"> {SOURCES[1].text} [2]" in evidence
    assert "red" not in evidence


def test_what_was_picked_comes_first_where_the_writer_cites_nothing() -> None:
    picked = [Citation(1, "They cannot see red.")]
    rows = [{"id": "report", "analysis": None, "stages": None}]
    wrong = "".join(f'[{n}: "Bees see red"] ' for n in range(3, 30)) + '[1: "Bees see infrared"]'
    text = markdown("Who?", check(f"Bees. {wrong}", SOURCES), SOURCES, picked, rows)
    first, _, written = text.partition("## As it was written")
    assert "> They cannot see red. [1]" in first
    assert written.lstrip().startswith("Bees.")
    assert "1. Bees (a.md)\n" in text
    assert "2. Birds (b.md), not cited" in text
    assert '- [3] "Bees see red": there is no such source (27 times)' in text
    assert '- [1] "Bees see infrared": these words do not stand in it' in text
    assert "## Evidence" not in text


def test_the_command_writes_a_report_with_its_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, out = tmp_path / "texts", tmp_path / "report.md"
    folder.mkdir()
    (folder / "bees.md").write_text("# Bees\n\nBees see ultraviolet light.\n")
    (folder / "birds.md").write_text("# Birds\n\nMost birds see ultraviolet light too.\n")
    analysis = {
        "contradictions": [{"topic": "red", "stances": [{"model": "x", "stance": "unseen"}]}],
        "unique_insights": [{"model": "y", "insight": "Polarised light helps."}],
    }

    def reply(ask: Ask) -> Reply:
        request = ask[0]
        stage = Stage("synthesis", request.model, Usage(5, 5), seconds=1.0, nano_usd=2_000_000)
        shape = request.response_format
        if shape is not None and shape.name == "evidence":
            text, told = '{"sentences": [1]}', {}
        elif shape is not None:
            text, told = '{"searches": ["ultraviolet light"]}', {}
        else:
            shown = request.messages[-1].text
            assert 'were found in them:\n- [1: "Bees see ultraviolet light."]\n- [2:' in shown
            text = 'Bees do [1: "Bees see ultraviolet light."], cats too [1: "Cats see it too"].'
            told = {"analysis": analysis}
        return Completion(request.model, assistant(text), stages=(stage,), extension=told)

    with batch_server.serving(tmp_path, FakeAsker(reply)) as url:
        done = CliRunner().invoke(
            app,
            [
                *("research", "Who sees ultraviolet light, bees?", "--sources", str(folder)),
                *("--out", str(out), "--url", url),
            ],
        )
    assert done.exit_code == 0, done.output
    text = out.read_text()
    assert 'Bees do [1: "Bees see ultraviolet light."], cats too.' in text
    assert "1. Bees (bees.md)" in text
    assert "- red: x says unseen" in text
    assert "- Only y: Polarised light helps." in text
    assert '- [1] "Cats see it too": these words do not stand in it' in text
    assert "> Most birds see ultraviolet light too. [2]" in text
    assert "| plan | brain | 5 | 5 | 1.0 | 0.002 |" in text
    assert text.count("| read | fusion/auto | 5 | 5 | 1.0 | 0.002 |") == 2
    assert "Bees see ultraviolet" in (tmp_path / "report.sources" / "01.txt").read_text()
