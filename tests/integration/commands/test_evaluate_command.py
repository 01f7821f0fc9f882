"""`fusion eval` and `fusion draco run` against a real HTTP face, with a fake to ask behind it."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import batch_server
import pytest
from rich.console import Console
from typer.testing import CliRunner

from models.errors import BadRequest
from models.messages import Completion, Stage, Usage, assistant
from router.data import read_rows
from serve.cli import app, evaluate
from serve.evaluation.outcome import Figures
from serve.jobs.asking import Ask, Reply
from serve.jobs.fake import FakeAsker
from serve.statistics import Interval

run = CliRunner()


def said(ask: Ask, text: str, nano_usd: int = 1_000_000) -> Completion:
    stage = Stage("answer", ask[0].model, Usage(10, 2), seconds=0.5, nano_usd=nano_usd)
    return Completion(ask[0].model, assistant(text), usage=stage.usage, stages=(stage,))


@pytest.fixture
def asker() -> FakeAsker:
    return FakeAsker()


@pytest.fixture
def url(tmp_path: Path, asker: FakeAsker) -> Iterator[str]:
    with batch_server.serving(tmp_path, asker) as address:
        yield address


def questions(folder: Path) -> Path:
    lines: list[dict[str, Any]] = [
        {
            "id": n,
            "question": f"What is {n} + {n}?",
            "kind": "number",
            "answer": 2 * n,
            "task": "sum",
        }
        for n in range(10)
    ]
    file = folder / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def systems(folder: Path, text: str) -> Path:
    file = folder / "systems.yaml"
    file.write_text(f"systems:\n{text}")
    return file


def test_eval_measures_and_teaches_the_router(url: str, asker: FakeAsker, tmp_path: Path) -> None:
    def reply(ask: Ask) -> Reply:
        number = int(ask[0].messages[-1].text.split()[2])
        if ask[0].model == "weak":
            return said(ask, f"Answer: {2 * number if number < 4 else 0}", 100_000)
        if number == 9:
            return BadRequest("too hard")
        return said(ask, f"I add them. Answer: {2 * number}.")

    asker.reply = reply
    chosen = systems(tmp_path, "  weak: {model: weak}\n  strong: {model: strong}\n")
    outcomes, plot = tmp_path / "outcomes.jsonl.gz", tmp_path / "plot.png"
    command = ["eval", str(questions(tmp_path)), "--systems", str(chosen), "--url", url]
    done = run.invoke(app, [*command, "--outcomes", str(outcomes), "--plot", str(plot), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    weak, strong = told["systems"]
    assert (weak["score"]["value"], strong["score"]["value"]) == (0.4, 0.9)
    assert (weak["failed"], strong["failed"]) == (0, 1)
    assert strong["above"]["value"] == pytest.approx(0.5)
    assert strong["above"]["low"] > 0
    assert weak["usd"] == pytest.approx(0.0001)
    assert weak["on_front"]
    assert strong["on_front"]
    assert plot.stat().st_size > 1000
    rows = read_rows([outcomes])
    assert len(rows) == 10
    assert rows[0].task == "sum"
    assert rows[5].outcomes["weak"].score == 0
    assert rows[5].outcomes["strong"].cost == pytest.approx(0.001)
    with gzip.open(outcomes, "rt") as file:
        assert "What is 0 + 0?" in json.loads(next(file))["prompt"]
    # Again: everything is there already, but for the row that failed.
    asker.asked.clear()
    again = run.invoke(app, [*command, "--json"])
    assert json.loads(again.stdout)["systems"] == told["systems"]
    assert (json.loads(again.stdout)["spent_usd"], len(asker.asked)) == ("0", 1)


def test_a_panel_has_its_writer_beside_it_with_as_many_calls(
    url: str, asker: FakeAsker, tmp_path: Path
) -> None:
    asker.reply = lambda ask: said(ask, "Answer: 0")
    chosen = systems(tmp_path, "  pair: {panel: [x, y], judge: y}\n")
    done = run.invoke(
        app,
        ["eval", str(questions(tmp_path)), "-s", str(chosen), "--url", url, "--json"],
    )
    assert done.exit_code == 0, done.output
    pair, votes = json.loads(done.stdout)["systems"]
    assert (pair["kind"], votes["system"], votes["kind"]) == ("panel", "y x4", "votes")
    assert votes["usd"] == pytest.approx(4 * pair["usd"])
    fusions = [ask[0].fusion for ask in asker.asked if ask[0].fusion is not None]
    assert fusions[0].analysis_models == ("x", "y")


def test_eval_stops_before_its_budget_and_goes_on_with_more(
    url: str, asker: FakeAsker, tmp_path: Path
) -> None:
    asker.reply = lambda ask: said(ask, "Answer: 0")
    chosen = systems(tmp_path, "  one: {model: one}\n")
    command = ["eval", str(questions(tmp_path)), "-s", str(chosen), "--url", url, "--json"]
    done = run.invoke(app, [*command, "--budget", "0.0055"])
    assert done.exit_code == 1
    assert "budget_exceeded" in done.output
    assert 4 <= len(asker.asked) <= 6
    done = run.invoke(app, [*command, "--budget", "1"])
    assert done.exit_code == 0, done.output
    assert len(asker.asked) == 10


def test_what_is_wrong_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    bad = systems(tmp_path, "  a: {model: x, panel: [y]}\n  b: {panel: [y]}\n  c: {modle: x}\n")
    done = run.invoke(app, ["eval", str(questions(tmp_path)), "-s", str(bad)])
    assert done.exit_code == 2
    for line in ("systems.a: ", "systems.b: ", "systems.c.modle: "):
        assert line in done.output


def test_a_system_that_fails_every_question_has_nothing_right(
    url: str, asker: FakeAsker, tmp_path: Path
) -> None:
    asker.reply = lambda ask: BadRequest("no") if ask[0].model == "mute" else said(ask, "Answer: 0")
    chosen = systems(tmp_path, "  mute: {model: mute}\n  one: {model: one}\n")
    done = run.invoke(
        app, ["eval", str(questions(tmp_path)), "-s", str(chosen), "--url", url, "--json"]
    )
    assert done.exit_code == 0, done.output
    mute, one = json.loads(done.stdout)["systems"]
    assert (mute["score"]["value"], mute["failed"], mute["usd"]) == (0, 10, 0)
    assert (mute["why"], mute["on_front"]) == ("no", False)
    assert (one["score"]["value"], one["failed"]) == (0.1, 0)


FIGURES = [
    Figures(
        *("a-system-whose-name-is-rather-long", "self-fused", 100, Interval(0.4, 0.312, 0.551)),
        *(Interval(-0.412, -0.512, -0.301), 100, 12.000012, Interval(1111.2, 1, 2), True),
    )
]


def test_a_table_is_whole_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    narrow = Console(file=written, force_terminal=True, width=80, no_color=True, soft_wrap=True)
    monkeypatch.setattr(evaluate, "out", narrow)
    evaluate.show(FIGURES, "accuracy", percent=True)
    text = re.sub(r"\x1b\[[0-9;]*m", "", written.getvalue())
    *table, _, _ = text.splitlines()
    assert max(map(len, table)) <= 80
    assert "…" not in text
    for words in ("accuracy", "above the", "failed", "a task", "seconds", "self-fused"):
        assert words in text
    for words in ("40.0%", "(31.2..55.1)", "(-51.2..-30.1)", "12.000012 *", "1111.20"):
        assert words in text


def test_a_table_in_a_pipe_has_a_line_a_system(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.show(FIGURES, "accuracy", percent=True)
    header, line, failures, _ = capsys.readouterr().out.splitlines()
    assert failures.endswith("100 of 100 failed: it answered nothing")
    assert "accuracy (95%)" in header
    assert "above the first (95%)" in header
    assert "a-system-whose-name-is-rather-long self-fused 40.0% (31.2..55.1)" in line


SECRET = "mentions the year 1648"


def task(number: int) -> str:
    criteria = [
        {"id": "good", "weight": 10, "requirement": f"{SECRET} ({number})"},
        {"id": "more", "weight": 5, "requirement": "names both sides"},
        {"id": "bad", "weight": -20, "requirement": "invents a treaty"},
    ]
    sections = [
        {"id": "s1", "title": "Facts", "criteria": criteria[:2]},
        {"id": "s2", "title": "Faults", "criteria": criteria[2:]},
    ]
    return json.dumps(
        {
            "id": f"t{number}",
            "problem": f"How did war {number} end?",
            "answer": json.dumps({"id": "r", "sections": sections}),
            "domain": "History",
        }
    )


def draco(folder: Path) -> list[str]:
    data = folder / "draco.jsonl"
    data.write_text(f"{task(1)}\n{task(2)}\n")
    chosen = systems(folder, "  mute: {model: mute}\n  able: {model: able}\n")
    return ["draco", "run", "--data", str(data), "-s", str(chosen), "--judge", "judge"]


def judging(ask: Ask) -> Reply:
    """Answers as `able` and `mute`, judges as `judge`."""
    request, text = ask[0], ask[0].messages[-1].text
    if request.model == "mute":
        return BadRequest("I refuse.")
    if request.model == "able":
        return said(ask, "It ended in 1648.")
    if "names both sides" in text:
        return said(ask, "In my view this is not quite met.")
    verdict = "MET" if SECRET in text else "UNMET"
    return said(ask, json.dumps({"reason": "because", "verdict": verdict}))


def test_draco_from_answers_to_scores(url: str, asker: FakeAsker, tmp_path: Path) -> None:
    asker.reply = judging
    out = tmp_path / "out"
    done = run.invoke(app, [*draco(tmp_path), "--url", url, "--json", "--out", str(out)])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    mute, able = told["systems"]
    # Failed generations are 0, and shown.
    assert (mute["score"]["value"], mute["failed"], mute["pass_rate"]) == (0, 2, 0)
    # 'good' is MET (10), 'more' has no verdict and leaves both sums, 'bad' is UNMET: 100.
    assert (able["score"]["value"], able["pass_rate"]) == (100, 1)
    assert able["dropped_verdicts"] == 2 * 3
    assert able["by_section"] == {"Facts": 1.0, "Faults": 1.0}
    assert able["by_domain"] == {"History": 1.0}
    assert able["above"]["value"] == 100
    assert able["spread"] == 0
    assert told["protocol"] == "three-runs"
    assert told["agreement"]["criteria"] == 4
    assert told["agreement"]["share"]["value"] == 1
    assert set(told["spent_usd"]) == {"answers", "verdicts", "second judge"}
    files = sorted(out.glob("verdicts-*.json"))
    assert len(files) == 2
    scored = run.invoke(app, ["draco", "score", str(files[0]), "--json"])
    assert json.loads(scored.stdout)["normalized_score"] == 100


def test_what_generates_never_sees_a_rubric(url: str, asker: FakeAsker, tmp_path: Path) -> None:
    asker.reply = judging
    done = run.invoke(app, [*draco(tmp_path), "--url", url, "--json"])
    assert done.exit_code == 0, done.output
    generated = [ask for ask in asker.asked if ask[0].model in ("mute", "able")]
    assert len(generated) == 4
    for request, call in generated:
        read = repr(request) + repr(call.metadata)
        assert "How did war" in read
        assert not any(word in read for word in (SECRET, "both sides", "treaty", "weight", "Facts"))


def test_each_judge_run_is_asked_for_itself(url: str, asker: FakeAsker, tmp_path: Path) -> None:
    asker.reply = judging
    run.invoke(app, [*draco(tmp_path), "--url", url, "--json"])
    judged = [ask[0] for ask in asker.asked if ask[0].model == "judge"]
    # Of one system two tasks, three criteria, three runs; and six by the second judge.
    assert len(judged) == 2 * 3 * 3 + 6
    assert {request.sampling.temperature for request in judged} == {0.2}
    assert all(request.response_format is not None for request in judged)


def test_a_judge_that_answers_in_prose_is_told_and_scores_nothing(
    url: str, asker: FakeAsker, tmp_path: Path
) -> None:
    asker.reply = lambda ask: said(ask, "It ended in 1648, I would say.")
    command = [*draco(tmp_path), "--url", url]
    done = run.invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    assert "warning: criteria: 6, the public set has 3934" in done.stderr
    told = json.loads(done.stdout)
    for one in told["systems"]:
        assert (one["score"]["value"], one["pass_rate"], one["failed"]) == (0, None, 0)
        assert (one["dropped_verdicts"], one["unjudged"]) == (2 * 3 * 3, 2)
    assert told["agreement"] is None
    shown = run.invoke(app, command)
    [able] = [line for line in shown.output.splitlines() if line.startswith("able: pass rate ?")]
    assert "18 verdicts dropped, 0 failed (scored 0), 2 not judged (scored 0)" in able
    assert "agreement of judges: nothing to compare" in shown.output


def test_a_judge_that_says_met_to_everything_is_told_beside_its_scores(
    url: str, asker: FakeAsker, tmp_path: Path
) -> None:
    asker.reply = lambda ask: said(ask, '{"reason": "so", "verdict": "MET"}')
    done = run.invoke(app, [*draco(tmp_path), "--url", url])
    assert done.exit_code == 0, done.output
    assert "the judge says MET to 100.0% of the positive criteria, 100.0% of the negative" in (
        done.stdout
    )
    assert "agreement with itself, asked again on 12 criteria: 100.0%" in done.stdout
    assert "both say one word only" in done.stdout
    assert "judge says the same of every criterion" in done.stderr


def test_a_panel_is_never_scored_without_its_baselines(
    url: str, asker: FakeAsker, tmp_path: Path
) -> None:
    asker.reply = judging
    command = [*draco(tmp_path), "--url", url, "--json"]
    systems(tmp_path, "  pair: {panel: [able, mute], judge: able}\n")
    told = json.loads(run.invoke(app, command).stdout)
    assert [(one["system"], one["kind"]) for one in told["systems"]] == [
        ("pair", "panel"),
        ("able alone", "solo"),
        ("able fused x2", "self-fused"),
    ]
    told = json.loads(run.invoke(app, [*command, "--no-baselines"]).stdout)
    assert [one["system"] for one in told["systems"]] == ["pair"]


def test_a_dry_run_says_what_all_would_cost(url: str, asker: FakeAsker, tmp_path: Path) -> None:
    asker.reply = judging
    done = run.invoke(app, [*draco(tmp_path), "--url", url, "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    assert "4 answers and 36 verdicts" in done.stderr
    told = json.loads(done.stdout)
    # The mute one costs nothing; two answers, 36 verdicts and the second judge's 12 a tenth of a
    # cent each, as if every answer would be judged.
    assert told["rows"] == 4 + 36 + 12
    assert told["usd"]["value"] == pytest.approx(0.001 * (2 + 36 + 12))
    asked = len(asker.asked)
    assert asked == told["sampled"] == 4 + 18


def test_a_budget_that_is_surely_too_small_is_told_after_a_sample(
    url: str, asker: FakeAsker, tmp_path: Path
) -> None:
    asker.reply = lambda ask: said(ask, "Answer: 0")
    lines = [{"id": n, "question": f"{n}?", "kind": "number", "answer": n} for n in range(100)]
    file = tmp_path / "many.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    chosen = systems(tmp_path, "  one: {model: one}\n")
    command = ["eval", str(file), "-s", str(chosen), "--url", url, "--json"]
    done = run.invoke(app, [*command, "--budget", "0.02"])
    assert done.exit_code == 1
    assert "100 rows cost about $0.100000" in done.output
    assert len(asker.asked) == 5
    done = run.invoke(app, [*command, "--budget", "0.2"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["spent_usd"] == "0.095"  # the sample is not paid for again
    assert len(asker.asked) == 100
