"""Report cards, tables and progress for people at a terminal.

Text from outside (prompts, file names, answers of a model) is shown as it is, never as markup or control
codes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import Progress
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from qsave_reward.calibration import Calibration
from qsave_reward.errors import QSaveError
from qsave_reward.scoring import Scored
from qsave_reward.types import DIMENSIONS, LEVELS, Defect, DimensionScore

COLORS = {"visual_quality": "blue", "dynamic_quality": "yellow", "text_alignment": "cyan"}
BAR_CELLS = 33
"""Cells of a score bar; eight between two levels, so that the levels below it line up."""


@contextmanager
def progress_bar(
    total: int, label: str, *, printing: Console | None = None
) -> Iterator[Callable[[int], None]]:
    """A bar on standard error while that is a terminal, gone when done; yields what counts finished items.

    Args:
        total: number of items; a single one gets no bar.
        label: what is being done.
        printing: the console that prints results meanwhile; when it is a terminal it also gets the bar.
    """
    console = printing if printing is not None and printing.is_terminal else Console(stderr=True)
    shown = total > 1 and console.is_terminal
    bar = Progress(console=console, transient=True, redirect_stdout=False, disable=not shown)
    with bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.advance(task, done)


def score_card(scored: Scored, *, reasoning: bool) -> RenderableType:
    """One clip: scores with level and spread, then defects, reasons (if wanted) and warnings."""
    (file, _, prompt), result, _ = scored
    title = Table.grid(expand=True)
    title.add_column(ratio=1, overflow="fold")
    title.add_column(justify="right", no_wrap=True)
    if isinstance(result, QSaveError):
        title.add_row(plain_text(file, "bold"), Text("not scored", "bold red"))
        message = Text.assemble((f"{result.code}: ", "red"), plain_text(str(result)))
        return Group(Rule(style="dim"), title, Padding(message, (0, 0, 1, 2)))
    overall = Text.assemble("overall ", (f"{result.overall:.2f}", "bold"), f" {_level(result.overall)}")
    title.add_row(plain_text(file, "bold"), overall)
    parts: list[RenderableType] = [Rule(style="dim"), title, Padding(plain_text(prompt, "dim"), (0, 0, 1, 0))]
    parts.append(Padding(_score_table(result.scores), (0, 0, 0, 2)))
    if result.defects is not None:
        parts.append(Padding(_defect_table(result.defects), (1, 0, 0, 2)))
    if reasoning and result.reasoning:
        parts.append(Padding(plain_text(result.reasoning, "italic"), (1, 0, 0, 2)))
    if result.warnings:
        notes = Table.grid(padding=(0, 1))
        notes.add_column()
        notes.add_column(overflow="fold")
        for warning in result.warnings:
            notes.add_row(Text("!", "bold yellow"), plain_text(warning, "yellow"))
        parts.append(Padding(notes, (1, 0, 0, 2)))
    return Group(*parts, Text())


def bar(score: DimensionScore, cells: int = BAR_CELLS) -> str:
    """A score on the axis from 1 to 5: solid to one deviation below the mean, then shaded to one above.

    Example:
        >>> bar(DimensionScore(mean=3.0, std=1.0, probs=(0.2,) * 5), cells=9)
        '███▓▓▒▒··'
    """

    def cell(value: float) -> int:
        return 1 + round((min(max(value, 1.0), 5.0) - 1.0) / 4.0 * (cells - 1))

    low, middle, high = cell(score.mean - score.std), cell(score.mean), cell(score.mean + score.std)
    return "█" * low + "▓" * (middle - low) + "▒" * (high - middle) + "·" * (cells - high)


def _score_table(scores: Mapping[str, DimensionScore]) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(no_wrap=True)
    for dimension, score in scores.items():
        value = Text.assemble((f"{score.mean:.2f}", "bold"), f" ± {score.std:.2f} ", _level(score.mean))
        table.add_row(_name(dimension), Text(bar(score), COLORS[dimension]), value)
    marks = "".join(str(level).ljust((BAR_CELLS - 1) // 4) for level in range(1, 6)).rstrip()
    table.add_row("", Text(marks, "dim"), Text(f"1 {LEVELS[0]}, 5 {LEVELS[-1]}", "dim"))
    return table


def _defect_table(defects: tuple[Defect, ...]) -> RenderableType:
    if not defects:
        return Text("no defect named", "dim")
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    for _ in range(2):
        table.add_column(no_wrap=True)
    for defect in sorted(defects, key=lambda d: (DIMENSIONS.index(d.dimension), d.start or 0.0)):
        span = "whole clip" if defect.start is None else f"{defect.start:.1f}-{defect.end:.1f} s"
        table.add_row(
            plain_text(defect.label, f"bold {COLORS[defect.dimension]}"),
            _name(defect.dimension),
            f"severity {defect.severity:.2f}, {span}",
        )
    return table


def evaluation_table(evaluation: Mapping[str, Any]) -> RenderableType:
    """The results of `Evaluation.to_dict` with chance and ceiling beside them."""
    results = evaluation["results"]
    dimensions = [name for name in (*DIMENSIONS, "overall") if name in results]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    # The ceiling stands after the correlation that it is one of.
    linear = any(row["plcc"] is not None for row in evaluation["baselines"]["ceiling"].values())
    columns = ["PLCC", "ceiling"] if linear else ["ceiling", "PLCC"]
    for name in ("SRCC", "95 %", *columns, "KRCC", "RMSE", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for dimension in dimensions:
        row = results[dimension]
        table.add_row(
            _name(dimension),
            Text(_number(row["srcc"]), "bold"),
            _interval(row["ci95"]),
            *(_number(row[name.lower()]) for name in (*columns, "KRCC", "RMSE")),
            str(row["n"]),
        )
    views = _views(results, dimensions)
    found = results["attribution"]
    names = {"precision": "precision", "recall": "recall", "F1": "f1", "span IoU": "span_iou"}
    numbers = ", ".join(f"{name} {_number(found[key])}" for name, key in names.items())
    lines = [Text(f"defects: {numbers}")]
    lines.append(Text(f"         over {found['n']} clips; {found['n_failed']} answers could not be read"))
    chance = [row["ci95"] for row in evaluation["baselines"]["random"].values() if row["ci95"]]
    if chance:
        widest = min(low for low, _ in chance), max(high for _, high in chance)
        lines.append(Text(f"random scores: SRCC {_interval(widest)}", "dim"))
    known = evaluation["baselines"]["generator_mean"]
    if any(known[name]["srcc"] is not None for name in dimensions):
        numbers = ", ".join(_number(known[name]["srcc"]) for name in dimensions)
        lines.append(Text(f"the mean of the clip's generator: SRCC {numbers}", "dim"))
    notes = {results[name]["reason"] for name in (*dimensions, "attribution") if results[name]["reason"]}
    lines += [plain_text(note, "yellow") for note in sorted(notes)]
    if evaluation["n_failed"]:
        counts = ", ".join(f"{code} {count}" for code, count in sorted(evaluation["failures"].items()))
        lines.append(Text(f"{evaluation['n_failed']} of {evaluation['n']} clips failed: {counts}", "red"))
    title = plain_text(f"{evaluation['data']}, {evaluation['mode']} scores, {evaluation['n']} clips", "bold")
    return Group(title, Text(), table, Text(), views, Text(), *lines)


def _views(results: Mapping[str, Any], dimensions: Sequence[str]) -> Table:
    """What lies behind the SRCC: the two parts generators have in it, pairs, the fitted PLCC, the spread."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    for name in ("generators", "inside", "pairs", "with ties", "fitted PLCC", "spread"):
        table.add_column(name, justify="right", no_wrap=True)
    for dimension in dimensions:
        pairs = results["pairwise"][dimension]
        spread = results["calibration"].get(dimension)
        table.add_row(
            _name(dimension),
            *(_number(results[view][dimension]["srcc"]) for view in ("generator_level", "within_generator")),
            *(_number(pairs[name]) for name in ("without_ties", "with_ties")),
            _number(results[dimension]["plcc_logistic"]),
            _number(spread and spread["error_spread_ratio"]),
        )
    return table


def calibration_table(calibration: Calibration) -> RenderableType:
    """Mean and spread of each dimension."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    for name in ("mean", "std"):
        table.add_column(name, justify="right", no_wrap=True)
    for dimension in DIMENSIONS:
        numbers = calibration.mean[dimension], calibration.std[dimension]
        table.add_row(_name(dimension), *map(_number, numbers))
    return Group(plain_text(f"{calibration.data}, {calibration.n} clips", "bold"), Text(), table)


def doctor_view(report: Mapping[str, Any]) -> RenderableType:
    """The report of `doctor.examine`."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    table.add_row("python", f"{report['python']} on {report['platform']}")
    table.add_row("devices", ", ".join(report["devices"]) or "torch does not load")
    table.add_row("threads", f"{report['threads']} of {report['cpus']} cores")
    for group in ("packages", "optional"):
        versions = (f"{name} {found or 'missing'}" for name, found in report[group].items())
        table.add_row(group, ", ".join(versions))
    for check in report["checks"]:
        verdict = Text("ok ", "green") if check["ok"] else Text("FAILED ", "bold red")
        table.add_row(check["name"], Text.assemble(verdict, plain_text(check["detail"])))
    return table


def plain_text(text: str, style: str = "") -> Text:
    """Text as it is, with control characters (which could drive the terminal) made visible."""
    shown = "".join(
        char if char == "\n" or unicodedata.category(char)[0] != "C" else ascii(char)[1:-1] for char in text
    )
    return Text(shown, style)


def _name(dimension: str) -> str:
    return dimension.replace("_", " ")


def _level(mean: float) -> str:
    return LEVELS[min(max(round(mean), 1), len(LEVELS)) - 1]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(pair: tuple[float, float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.3f} to {pair[1]:.3f}"
