"""How the command line shows what a fusion did."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from serve.cli.common import out

#: Characters of a panelist that the live view shows: the last ones.
_SEEN = 240


class Panel:
    """The panelists while they write, each as the last words it wrote. Gone when they are done;
    on what is no terminal, only what each said in the end is printed."""

    def __init__(self, console: Console = out, *, whole: bool) -> None:
        self._console = console
        self._whole = whole
        self._writing: dict[int, tuple[str, str]] = {}
        self._live: Live | None = None

    def tell(self, told: dict[str, Any]) -> None:
        """One event of a panelist."""
        index, model = told["index"], told["model"]
        match told["event"]:
            case "panel.added":
                self._writing[index] = (model, "")
            case "panel.delta" | "panel.reasoning.delta":
                _, before = self._writing.get(index, (model, ""))
                self._writing[index] = (model, (before + told["delta"])[-_SEEN:])
            case "panel.completed":
                self._writing.pop(index, None)
                self._finished(model, told["content"])
            case "panel.failed":
                self._writing.pop(index, None)
                self._console.print(f"[red]✗ {escape(model)}[/]  {escape(told['error'])}")
        self._draw()

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = None

    def _finished(self, model: str, content: str) -> None:
        words = len(content.split())
        self._console.print(f"[green]✓ {escape(model)}[/]  [dim]{words} words[/]")
        if self._whole:
            self._console.print(content.strip(), style="dim", markup=False)

    def _draw(self) -> None:
        if not self._console.is_terminal:
            return
        if not self._writing:
            self.close()
            return
        lines = [
            Text.assemble((f"… {model}  ", "cyan"), (" ".join(text.split()), "dim"))
            for _, (model, text) in sorted(self._writing.items())
        ]
        if self._live is None:
            self._live = Live(console=self._console, transient=True, refresh_per_second=8)
            self._live.start()
        self._live.update(Group(*lines))


def show_analysis(analysis: dict[str, Any]) -> None:
    lines = {
        "Consensus": analysis["consensus"],
        "Contradictions": [
            f"{item['topic']}: "
            + "; ".join(f"{one['model']}: {one['stance']}" for one in item["stances"])
            for item in analysis["contradictions"]
        ],
        "Partial coverage": [
            f"{', '.join(item['models'])}: {item['point']}" for item in analysis["partial_coverage"]
        ],
        "Unique insights": [
            f"{item['model']}: {item['insight']}" for item in analysis["unique_insights"]
        ],
        "Blind spots": analysis["blind_spots"],
    }
    for title, points in lines.items():
        if points:
            out.print(f"  [cyan]{title}[/]")
        for point in points:
            out.print(f"    • {point}", markup=False)


def show_stages(told: dict[str, Any]) -> None:
    table = Table("stage", "model", "in", "out", "seconds", "USD", box=None, pad_edge=False)
    for stage in told.get("stages", ()):
        table.add_row(
            stage["role"],
            escape(stage.get("member") or stage["model"]),
            str(stage["input_tokens"]),
            str(stage["output_tokens"]),
            f"{stage['seconds']:.2f}",
            "failed" if stage.get("error") else stage["cost_usd"] or "?",
        )
    if "cost_usd" in told:
        # What was cut off has cost something, and only the ledger says what.
        cut = any(stage.get("error") and stage["cost_usd"] is None for stage in told["stages"])
        least = "at least " if cut else ""
        table.add_row("all", *[""] * 4, least + (told["cost_usd"] or "?"), style="bold")
    out.print(table)


def choice(option: dict[str, Any]) -> str:
    """What the router chose, as a caller would ask for it."""
    if option.get("panel"):
        return f"fusion/{option['panel']}"
    return " → ".join(option["models"])


def show_route(route: dict[str, Any], answer: str) -> None:
    """Who was chosen, who answered in its place, why, and how to judge the answer."""
    chosen, answered = choice(route), route["model"]
    by = "" if answered == chosen else f", answered by {answered}"
    out.print(f"{chosen}{by}: {route['why']}", style="dim", markup=False)
    out.print(f"fusion router feedback {answer} up", style="dim", markup=False)
