"""The curves of `best_of_n_check.py` as a picture (SVG) and as a page that shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 820, 652
LINES = {"oracle": "oracle: knows the truth", "model": "picked by the model", "random": "random"}
"""The curves in the order in which they lie above one another, and what the legend says."""

STYLE = """
svg { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; --ink: #1b1f24; --soft: #5d6772;
  --line: #dde1e6; --model: #6b4fb3; --oracle: #0b7d6c; --random: #7a828c; --card: #fff; }
@media (prefers-color-scheme: dark) { svg { --ink: #e7eaee; --soft: #9aa5b1; --line: #323943;
  --model: #b49cf0; --oracle: #47cfb3; --random: #9aa5b1; --card: #1d2127; } }
svg .card { fill: var(--card); }
svg text { fill: var(--soft); }
svg .title { fill: var(--ink); font-weight: 600; }
svg .large { font-size: 16px; }
svg .small { font-size: 12px; }
svg .middle { text-anchor: middle; }
svg .end { text-anchor: end; }
svg .frame { fill: none; stroke: var(--line); }
svg .grid { stroke: var(--line); stroke-width: .7; }
svg .model { --c: var(--model); }
svg .oracle { --c: var(--oracle); }
svg .random { --c: var(--random); }
svg polyline { fill: none; stroke: var(--c); stroke-width: 2; }
svg .oracle polyline { stroke-dasharray: 7 4; }
svg .random polyline { stroke-dasharray: 2 4; }
svg .model polyline { stroke-width: 2.6; }
svg polygon { fill: var(--c); opacity: .13; }
svg circle { fill: var(--c); }
"""


@dataclass(frozen=True)
class Panel:
    """A plot inside the picture: title, left and top edge and size in pixels, range of the y axis."""

    title: str
    left: float
    top: float
    width: float
    height: float
    low: float
    high: float

    def x(self, n: float, number: int) -> float:
        """Place of N = n of `number`."""
        return self.left + self.width * (0.04 + 0.92 * (n - 1) / (number - 1))

    def y(self, quality: float) -> float:
        return self.top + self.height * (self.high - quality) / (self.high - self.low)


def draw(outcomes: Mapping[str, Any]) -> str:
    """The picture: a large plot of the overall quality, below it a small one of each dimension.

    Args:
        outcomes: `Outcome` by name, as dictionaries.
    """
    overall, *others = outcomes
    low, high = _range([outcomes[overall]])
    title = "overall: mean of the three dimensions"
    parts = _panel(Panel(title, 72, 96, 728, 296, low, high), outcomes[overall], "N, candidates of a prompt")
    low, high = _range([outcomes[name] for name in others])
    for k, name in enumerate(others):
        panel = Panel(name.replace("_", " "), 72 + 252 * k, 470, 224, 132, low, high)
        parts += _panel(panel, outcomes[name], "N")
    share, (low, high) = outcomes[overall]["share"], outcomes[overall]["share_ci95"]
    number = len(outcomes[overall]["model"]["mean"])
    percent, low, high = (f"{100 * value:.0f}" for value in (share, low, high))
    told = f"At N = {number} the model reaches {percent} % of the oracle's gain [{low} to {high} %]"
    label = f"Best of N. {told}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(label)}">',
            f"<style>{STYLE}</style>",
            f'<rect class="card" width="{WIDTH}" height="{HEIGHT}"/>',
            f'<text class="title large" x="20" y="26">{escape(told)}</text>',
            *_legend(20, 54),
            *(_axis_name(22, middle) for middle in (244, 536)),
            *parts,
            "</svg>",
        ]
    )


def page(told: Mapping[str, Any]) -> str:
    """The page: what was measured, in a sentence, and the picture.

    Args:
        told: what `best_of_n_check.result` returns.
    """
    overall, provenance = told["outcomes"]["overall"], told["provenance"]
    gain, number = overall["gain"], told["candidates"]
    possible = overall["oracle"]["mean"][-1] - overall["random"]["mean"][-1]
    sentence = (
        f"For each of {told['prompts']} prompts of the test world, {number} clips with independent defects "
        f"were rendered and scored by {provenance['model']} (revision {provenance['revision']}, direct "
        f"mode). The clip with the highest overall score among {number} is, in truth, "
        f"{gain['mean'][-1]:.2f} points better [{gain['low'][-1]:.2f}, {gain['high'][-1]:.2f}] than a "
        f"random one; an oracle would gain {possible:.2f}."
    )
    note = "Lines are means over the prompts and over all choices of N candidates; bands are 95 % bootstrap "
    note += "intervals over prompts. All picks follow the overall score, those of the lower plots too."
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>Best of N with {escape(provenance["model"])}</title>
<style>
body {{ max-width: 860px; margin: 0 auto; padding: 28px 20px; font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 22px; margin: 0 0 8px; }}
svg {{ display: block; width: 100%; height: auto; margin: 16px 0; border-radius: 12px; }}
.note {{ font-size: 13px; opacity: .75; }}
@media (prefers-color-scheme: light) {{ body {{ background: #f4f5f7; }} }}
</style>
</head>
<body>
<h1>Best of N</h1>
<p>{escape(sentence)}</p>
{draw(told["outcomes"])}
<p class="note">{escape(note)}</p>
</body>
</html>"""


def _panel(panel: Panel, outcome: Mapping[str, Any], x_label: str) -> list[str]:
    """Title, axes and the three curves with their bands."""
    number = len(outcome["model"]["mean"])
    bottom, right = panel.top + panel.height, panel.left + panel.width
    parts = [f'<text class="title" x="{panel.left:.0f}" y="{panel.top - 8:.0f}">{escape(panel.title)}</text>']
    for value, text in _ticks(panel.low, panel.high, most=panel.height / 24):
        y = panel.y(value)
        parts.append(f'<line class="grid" x1="{panel.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="small end" x="{panel.left - 7:.0f}" y="{y + 4:.1f}">{text}</text>')
    step = math.ceil(number * 24 / panel.width)
    for n in range(1, number + 1, step):
        x = panel.x(n, number)
        parts.append(f'<text class="small middle" x="{x:.1f}" y="{bottom + 17:.0f}">{n}</text>')
    middle = panel.left + panel.width / 2
    parts.append(f'<text class="small middle" x="{middle:.0f}" y="{bottom + 35:.0f}">{x_label}</text>')
    size = f'width="{panel.width}" height="{panel.height}"'
    parts.append(f'<rect class="frame" x="{panel.left}" y="{panel.top}" {size}/>')
    for name in reversed(LINES):
        parts += _curve(panel, outcome[name], name)
    return parts


def _curve(panel: Panel, curve: Mapping[str, Sequence[float]], name: str) -> list[str]:
    number = len(curve["mean"])

    def points(values: Sequence[float]) -> list[str]:
        return [f"{panel.x(n, number):.1f},{panel.y(value):.1f}" for n, value in enumerate(values, start=1)]

    band = points(curve["low"]) + points(curve["high"])[::-1]
    parts = [f'<g class="{name}"><polygon points="{" ".join(band)}"/>']
    parts.append(f'<polyline points="{" ".join(points(curve["mean"]))}"/>')
    for n, value in enumerate(curve["mean"], start=1):
        hover = f"{LINES[name]}, N = {n}: {value:.3f} [{curve['low'][n - 1]:.3f}, {curve['high'][n - 1]:.3f}]"
        x, y = panel.x(n, number), panel.y(value)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(hover)}</title></circle>')
    return [*parts, "</g>"]


def _legend(left: float, middle: float) -> list[str]:
    parts = []
    for name, text in LINES.items():
        line = f'<polyline points="{left},{middle - 4} {left + 34},{middle - 4}"/>'
        dot = f'<circle cx="{left + 17}" cy="{middle - 4}" r="3"/>'
        parts.append(f'<g class="{name}">{line}{dot}</g><text x="{left + 42}" y="{middle}">{text}</text>')
        left += 66 + 6.6 * len(text)
    return [*parts, f'<text x="{left}" y="{middle}">bands: 95 % over prompts</text>']


def _axis_name(x: float, y: float) -> str:
    return (
        f'<text class="small middle" transform="translate({x} {y}) rotate(-90)">true quality, 1 to 5</text>'
    )


def _range(outcomes: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Low and high end of an axis that holds all curves and their bands, with some room."""
    curves: list[Mapping[str, Any]] = [outcome[name] for outcome in outcomes for name in LINES]
    low, high = min(min(curve["low"]) for curve in curves), max(max(curve["high"]) for curve in curves)
    room = 0.06 * (high - low) + 1e-3
    return low - room, high + room


def _ticks(low: float, high: float, *, most: float) -> list[tuple[float, str]]:
    """Round values of an axis, at most so many of them, and how they are written."""
    steps = (factor * 10.0**power for power in range(-4, 2) for factor in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= most)
    decimals = max(0, -math.floor(math.log10(step)))
    first, last = math.ceil(low / step), math.floor(high / step)
    return [(k * step, f"{k * step:.{decimals}f}") for k in range(first, last + 1)]
