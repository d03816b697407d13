"""Plots of an evaluation as shapes in pixels, for a template to draw as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qsave_reward.errors import ConfigError
from qsave_reward.evaluate.summary import Columns
from qsave_reward.metrics import fit_logistic
from qsave_reward.report import clean

WIDTH, HEIGHT = 320, 300
LEFT, TOP, SIDE = 40, 10, 244
"""Left and top edge and side of the square that the axes enclose, in pixels."""

MAX_POINTS = 3000
"""Points drawn; of more, an even selection in the order of the data."""

LINE_HEIGHT = 12.0


@dataclass(frozen=True)
class Plot:
    """A square plot; all places are in pixels from the top left corner.

    Attributes:
        title: what is seen.
        x_label, y_label: what the axes mean.
        ticks: place along either axis, from its low end, and text.
        points: x, y, radius and a text to show on hover.
        labels: x, y, whether the text ends there, and the text.
        curve: points of a line, `x,y x,y ...`; empty for none.
    """

    title: str
    x_label: str
    y_label: str
    ticks: tuple[tuple[float, str], ...]
    points: tuple[tuple[float, float, float, str], ...]
    labels: tuple[tuple[float, float, bool, str], ...] = ()
    curve: str = ""


def score_plot(columns: Columns) -> Plot:
    """True against predicted scores, a point an item, with the fitted logistic mapping where there is one."""
    predicted, truth = columns.predicted.tolist(), columns.truth.tolist()
    low, high = min([1.0, *predicted, *truth]), max([5.0, *predicted, *truth])
    x, y = _scales(low, high)
    step = math.ceil(len(predicted) / MAX_POINTS) or 1
    points = tuple(
        (x(p), y(t), 2.6, f"{clean(item.record.id or item.record.video)}: predicted {p:.2f}, true {t:.2f}")
        for p, t, item in list(zip(predicted, truth, columns.predictions, strict=True))[::step]
    )
    curve = ""
    try:
        mapping = fit_logistic(columns.predicted, columns.truth)
    except ConfigError as error:
        if error.code != "undefined":
            raise
    else:
        ends = min(predicted), max(predicted)
        at = [ends[0] + (ends[1] - ends[0]) * k / 60 for k in range(61)]
        values = mapping(at).tolist()
        curve = " ".join(
            f"{x(p):.1f},{y(min(max(v, low), high)):.1f}" for p, v in zip(at, values, strict=True)
        )
    shown = f"Every clip, n = {len(predicted)}" if step == 1 else f"Every {step}th of {len(predicted)} clips"
    return Plot(shown, "predicted", "true", _ticks(low, high), points, curve=curve)


def generator_plot(generators: Mapping[str, Mapping[str, Any]]) -> Plot:
    """Mean true against mean predicted score, a point a generator, with its name."""
    values = [row[key] for row in generators.values() for key in ("predicted", "truth")]
    room = max(0.15 * (max(values) - min(values)), 0.1)
    low, high = min(values) - room, max(values) + room
    x, y = _scales(low, high)
    points = [
        (x(row["predicted"]), y(row["truth"]), 4.5, f"{name}, {row['n']} clips")
        for name, row in generators.items()
    ]
    return Plot(
        "Means of the generators",
        "mean predicted",
        "mean true",
        _ticks(low, high),
        tuple(points),
        labels=_labels([(point[0], point[1]) for point in points], list(generators)),
    )


def spread_plot(bins: Sequence[Mapping[str, Any]]) -> Plot:
    """Root mean square error against root mean square spread, a point a bin of equally many items."""
    high = 1.1 * max([0.5, *(max(part["spread"], part["error"]) for part in bins)])
    x, y = _scales(0.0, high)
    points = tuple(
        (x(part["spread"]), y(part["error"]), 4.5, f"{part['n']} clips: spread {part['spread']:.2f}")
        for part in bins
    )
    return Plot("Error by spread", "the model's own spread", "actual error", _ticks(0.0, high), points)


def _scales(low: float, high: float) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Places of values on the two axes, which have one range."""
    return (
        lambda value: LEFT + SIDE * (value - low) / (high - low),
        lambda value: TOP + SIDE * (high - value) / (high - low),
    )


def _ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """At most seven round values and their distance from the low end."""
    steps = (factor * 10.0**power for power in range(-3, 9) for factor in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= 6)
    decimals = max(0, -math.floor(math.log10(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(
        (SIDE * (k * step - low) / (high - low), f"{k * step:.{decimals}f}") for k in range(first, last + 1)
    )


def _labels(places: Sequence[tuple[float, float]], names: Sequence[str]) -> tuple[Any, ...]:
    """Names beside their points, on the side with room, and none on top of another."""
    order = sorted(range(len(names)), key=lambda i: places[i][1])
    labels, lowest = [], {True: -math.inf, False: -math.inf}
    for i in order:
        x, y = places[i]
        ends = x > LEFT + 0.55 * SIDE
        lowest[ends] = max(y + 4, lowest[ends] + LINE_HEIGHT)
        name = names[i] if len(names[i]) <= 18 else names[i][:17] + "…"
        labels.append((x - 8 if ends else x + 8, lowest[ends], ends, name))
    return tuple(labels)
