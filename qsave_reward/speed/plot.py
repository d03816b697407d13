"""Picture of how the time of scoring grows."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from qsave_reward.errors import ConfigError
from qsave_reward.speed.scaling import Curve, Scaling

FORMATS = ("svg", "png")


def check_plot(path: str) -> None:
    """Refuse early what `write_plot` could not write.

    Raises:
        ConfigError: another ending than .svg and .png.
        ImportError: matplotlib is not installed.
    """
    if Path(path).suffix.lower().removeprefix(".") not in FORMATS:
        raise ConfigError(f"expected a plot with the ending .svg or .png, got {path!r}")
    import matplotlib.figure  # noqa: F401


def write_plot(scaling: Scaling, path: str) -> None:
    """Write both curves side by side as SVG or PNG, by the ending; complete or not at all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, scaling.clips, label="clips")
    _draw(right, scaling.tokens, label=f"visual tokens a clip ({scaling.of} clips)")
    target = Path(path)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        figure.savefig(partial, format=target.suffix.lower().removeprefix("."), dpi=150)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _draw(axes: Any, curve: Curve, *, label: str) -> None:
    sizes = [point.size for point in curve.points]
    seconds = [point.seconds for point in curve.points]
    below = [point.seconds - point.low for point in curve.points]
    above = [point.high - point.seconds for point in curve.points]
    axes.errorbar(sizes, seconds, yerr=(below, above), fmt="o-", capsize=3)
    axes.set(xlabel=label, ylabel="seconds", xlim=(0, None), ylim=(0, None))
    axes.set_title(f"exponent {curve.exponent:.2f}, straight line R\u00b2 {curve.r2:.4f}", fontsize=10)
    axes.grid(alpha=0.3)
