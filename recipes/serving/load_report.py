"""What a load test promises, found or broken, as tables and as a picture of memory and latency over time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from load_clients import Answer
from load_server import Kill, Sample

GROWTH = 0.10
"""Share by which the memory of the front process may grow over the second half of the run."""
DESCRIPTORS = 32
"""Descriptors that the server may have more of at the end: pipes of decoders started meanwhile."""
MOST_POINTS = 3000

WIDTH, LEFT, PANEL, GAP, TOP = 820, 70, 200, 70, 40
STYLE = """
svg { font: 12px system-ui, sans-serif; --ink: #1b1f24; --soft: #5d6772; --line: #dde1e6;
  --c: #2f6fd0; --k: #c0392b; }
@media (prefers-color-scheme: dark) { svg { --ink: #e7eaee; --soft: #9aa5b1; --line: #323943; } }
svg text { fill: var(--soft); }
svg .title { fill: var(--ink); font-weight: 600; }
svg .frame { fill: none; stroke: var(--line); }
svg .grid { stroke: var(--line); stroke-width: .7; }
svg .kill { stroke: var(--k); stroke-dasharray: 4 3; }
svg polyline { fill: none; stroke: var(--c); stroke-width: 2; }
svg circle { fill: var(--c); opacity: .35; }
"""


@dataclass(frozen=True)
class Promise:
    """Something the server promises, and what was found."""

    text: str
    kept: bool
    found: str


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """50th, 90th, 99th percentile and maximum."""
    if not len(seconds):
        return {}
    values = np.quantile(seconds, (0.5, 0.9, 0.99, 1.0)).tolist()
    return dict(zip(("p50", "p90", "p99", "max"), values, strict=True))


def memory(samples: Sequence[Sample]) -> dict[str, float]:
    """Bytes of the front process over the run, and its growth in the second half.

    The run is measured in answers. `growth` is the share by which the median of its last tenth is above that
    of the tenth after the half; `bytes_per_request` the slope of a line through the second half.
    """
    rss, done = (np.array([getattr(one, name) for one in samples], float) for name in ("rss", "done"))
    half = done[-1] / 2

    def middle(low: float, high: float) -> float:
        there = (done >= low) & (done <= high)
        return float(np.median(rss[there])) if there.any() else float(rss[np.abs(done - low).argmin()])

    begin, end = middle(half, 1.2 * half), middle(1.8 * half, 2 * half)
    late = done >= half
    slope = float(np.polyfit(done[late], rss[late], 1)[0]) if len(set(done[late])) > 1 else 0.0
    return {
        "start": float(rss[0]),
        "warm": middle(0.2 * half, 0.4 * half),
        "half": begin,
        "end": end,
        "peak": float(rss.max()),
        "tree_peak": float(max(one.tree for one in samples)),
        "growth": end / begin - 1,
        "bytes_per_request": slope,
    }


def kinds(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """A row for each kind: how many, statuses, codes, broken promises; good ones first."""
    groups: dict[tuple[bool, str], list[Answer]] = {}
    for answer in answers:
        groups.setdefault((not answer.good, answer.kind), []).append(answer)
    rows = []
    for (bad, kind), group in sorted(groups.items()):
        rows.append(
            {
                "kind": kind,
                "good": not bad,
                "sent": len(group),
                "statuses": dict(Counter(str(one.status or "none") for one in group).most_common()),
                "codes": dict(Counter(one.code for one in group if one.code).most_common()),
                "problems": sum(one.problem is not None for one in group),
            }
        )
    return rows


def promises(result: Mapping[str, Any], answers: Sequence[Answer], planned: int) -> list[Promise]:
    """Every promise with what was found.

    Args:
        result: `memory`, `descriptors` (start, end), `zombies`, `left` (processes), `errors_counted` (5xx by
            path), `tracebacks` (in the log), `held` (clips and bytes after the load), `kills`, `restarts`.
        answers: one for each request that was sent.
        planned: how many there should have been.
    """
    good = [one for one in answers if one.good]
    bad = [one for one in answers if not one.good]
    wrong = [one for one in good if one.problem]
    missed = [one for one in bad if one.problem]
    faults = sum(one.status >= 500 for one in answers)
    counted, held, growth = result["errors_counted"], result["held"], result["memory"]["growth"]
    more = result["descriptors"]["end"] - result["descriptors"]["start"]
    scored, low = result["clips_scored"], sum(one.clips for one in answers)
    leavers = sum(one.status == 0 for one in bad)
    return [
        Promise("every request was sent", len(answers) == planned, f"{len(answers)} of {planned}"),
        Promise(
            "good requests: answered once, with the scores in process",
            not wrong,
            f"{len(good) - len(wrong)} of {len(good)}",
        ),
        Promise(
            "no clip scored twice",
            low <= scored <= low + leavers,
            f"{scored} scored, {low} received, {leavers} clients left early",
        ),
        Promise("bad requests: a typed 4xx", not missed, f"{len(bad) - len(missed)} of {len(bad)}"),
        Promise("no 5xx", not faults and not counted, f"{faults} received, {counted or 0} counted"),
        Promise("no traceback in the log", not result["tracebacks"], str(result["tracebacks"])),
        Promise("memory is flat in the second half", growth < GROWTH, f"{growth:+.1%}"),
        Promise("no descriptor leaks", more <= DESCRIPTORS, f"{more:+d}"),
        Promise("nothing is held when all is done", not any(held.values()), str(held)),
        Promise("no zombies", result["zombies"] == 0, str(result["zombies"])),
        Promise(
            "the worker was replaced after each kill",
            result["restarts"] >= len(result["kills"]) == result["kills_wanted"],
            f"{len(result['kills'])} kills, {result['restarts']:.0f} restarts",
        ),
        Promise("no process left after SIGTERM", not result["left"], str(result["left"] or 0)),
    ]


def table(result: Mapping[str, Any], found: Sequence[Promise]) -> list[str]:
    """Markdown: promises, numbers, kinds."""
    lines = ["| promise | kept | found |", "|---|---|---|"]
    lines += [f"| {one.text} | {'yes' if one.kept else '**NO**'} | {one.found} |" for one in found]
    size = {key: value / 2**20 for key, value in result["memory"].items()}
    lines += ["", "| front process, MiB | start | warm (10 %) | 50 % | end | peak | with children, peak |"]
    lines += ["|---|---|---|---|---|---|---|"]
    names = ("start", "warm", "half", "end", "peak", "tree_peak")
    lines += ["| | " + " | ".join(f"{size[name]:.1f}" for name in names) + " |"]
    waits = result["latency"]
    lines += ["", "| seconds of good requests | " + " | ".join(waits) + " |", "|---" * (1 + len(waits)) + "|"]
    lines += ["| | " + " | ".join(f"{value:.3f}" for value in waits.values()) + " |"]
    lines += ["", "| kind | sent | status: count | code: count | broken |", "|---|---|---|---|---|"]
    for row in result["kinds"]:
        cells = [
            ", ".join(f"{key}: {count}" for key, count in row[name].items()) for name in ("statuses", "codes")
        ]
        name = row["kind"] if row["good"] else f"bad: {row['kind']}"
        lines.append(f"| {name} | {row['sent']} | {cells[0]} | {cells[1]} | {row['problems']} |")
    return lines


def picture(samples: Sequence[Sample], answers: Sequence[Answer], kills: Sequence[Kill]) -> str:
    """SVG: memory of the front process and latency of good requests over time; kills are dashed lines."""
    good = [one for one in answers if one.good]
    good = good[:: math.ceil(len(good) / MOST_POINTS) or 1]
    span = max([one.at for one in samples] + [one.at + one.seconds for one in good] + [1.0])
    most = 1.15 * max(one.rss for one in samples) / 2**20
    lows = [-2.0, *(math.log10(max(one.seconds, 1e-3)) for one in good)]
    low, high = math.floor(min(lows)), math.ceil(max(lows))

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - 20) * at / span

    def y(share: float, panel: int) -> float:
        return TOP + panel * (PANEL + GAP) + PANEL * (1 - share)

    line = " ".join(f"{x(one.at):.1f},{y(one.rss / 2**20 / most, 0):.1f}" for one in samples)
    parts = _panel(
        "memory of the front process, MiB", 0, [(k / 4, f"{most * k / 4:.0f}") for k in range(5)], y
    )
    parts.append(f'<polyline points="{line}"/>')
    ticks = [((k - low) / (high - low), f"{10.0**k:g}") for k in range(low, high + 1)]
    parts += _panel("seconds of a good request, by the time of its answer", 1, ticks, y)
    for one in good:
        share = (math.log10(max(one.seconds, 1e-3)) - low) / (high - low)
        parts.append(f'<circle cx="{x(one.at + one.seconds):.1f}" cy="{y(share, 1):.1f}" r="1.6"/>')
    for kill in kills:
        for panel in (0, 1):
            ends = (
                f'x1="{x(kill.at):.1f}" x2="{x(kill.at):.1f}" y1="{y(0, panel):.1f}" y2="{y(1, panel):.1f}"'
            )
            parts.append(f'<line class="kill" {ends}/>')
    height = TOP + 2 * (PANEL + GAP)
    for k in range(7):
        place = f'x="{x(span * k / 6):.1f}" y="{height - GAP + 18}" text-anchor="middle"'
        parts.append(f"<text {place}>{span * k / 6:.0f} s</text>")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height - 40}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>"])


def _panel(
    title: str, panel: int, ticks: Sequence[tuple[float, str]], y: Callable[[float, int], float]
) -> list[str]:
    top, width = y(1, panel), WIDTH - LEFT - 20
    parts = [f'<text class="title" x="{LEFT}" y="{top - 10:.1f}">{escape(title)}</text>']
    parts.append(f'<rect class="frame" x="{LEFT}" y="{top:.1f}" width="{width}" height="{PANEL}"/>')
    for share, text in ticks:
        place = y(share, panel)
        ends = f'x1="{LEFT}" x2="{LEFT + width}" y1="{place:.1f}" y2="{place:.1f}"'
        parts.append(f'<line class="grid" {ends}/>')
        parts.append(f'<text x="{LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    return parts
