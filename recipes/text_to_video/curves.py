"""Pictures of runs: curves of several seeds with their spread, and the best of n; SVG or PNG by name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from run_log import read_log

from qsave_reward.errors import ConfigError

matplotlib.use("Agg")
from matplotlib import pyplot

COLORS = ("#6b4fb3", "#0b7d6c", "#c2571a", "#3a6ea5")
SHOWN = (
    "reward.visual_quality",
    "reward.dynamic_quality",
    "reward.text_alignment",
    "gold.visual",
    "gold.dynamic",
    "gold.alignment",
)


def draw_runs(runs: Mapping[str, Sequence[Path]], path: str | Path) -> None:
    """Evaluations against updates: for each name the mean of its runs, and a band from lowest to highest.

    Drawn is the change since a run's first evaluation, since runs with other seeds measure other videos.

    Args:
        runs: name of a line to the folders of its runs, one for each seed.
        path: picture to write.

    Raises:
        ConfigError: for a folder without evaluations, or more names than there are colors.
    """
    if len(runs) > len(COLORS):
        raise ConfigError(f"expected at most {len(COLORS)} names, got {len(runs)}: {', '.join(runs)}")
    figure, axes = pyplot.subplots(2, 3, figsize=(11, 5.6), layout="constrained")
    for color, (name, folders) in zip(COLORS, runs.items(), strict=False):
        tables = [_evaluations(folder) for folder in folders]
        steps = sorted(set.intersection(*(set(table) for table in tables)))
        for axis, metric in zip(axes.flat, SHOWN, strict=True):
            rows = [[table[step].get(metric) for step in steps] for table in tables]
            values = np.array(rows, dtype=np.float64)  # null, no score, is NaN
            values -= values[:, :1]
            axis.plot(steps, values.mean(axis=0), color=color, label=name)
            axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, lw=0)
            axis.set_title(metric.replace("_", " ").replace(".", ": "), fontsize=10)
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("updates")
    for axis in axes[:, 0]:
        axis.set_ylabel("change")
    axes.flat[0].legend(frameon=False)
    _save(figure, path)


def draw_best_of(outcome: Mapping[str, Any], path: str | Path) -> None:
    """What `best_of_n.outcomes` found: one panel a quality, against n."""
    names = [name for name in outcome if name != "sizes"]
    figure, axes = pyplot.subplots(1, len(names), figsize=(4.6 * len(names), 3.6), layout="constrained")
    for axis, name in zip(np.atleast_1d(axes), names, strict=True):
        lines = outcome[name]
        axis.plot(outcome["sizes"], lines["picked"], "o-", color=COLORS[0], label="picked by the reward")
        axis.plot(outcome["sizes"], lines["oracle"], "s--", color=COLORS[1], label="best there is")
        axis.axhline(lines["random"], color="#7a828c", ls=":", label="any")
        axis.set_xscale("log", base=2)
        axis.set_xticks(outcome["sizes"], [str(size) for size in outcome["sizes"]])
        axis.set_xlabel("videos to choose from")
        axis.set_title(name.replace(".", ": "), fontsize=10)
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].legend(frameon=False)
    _save(figure, path)


def _evaluations(folder: Path) -> dict[int, dict[str, float]]:
    rows = [row for row in read_log(Path(folder) / "log.jsonl") if row["kind"] == "evaluation"]
    if not rows:
        raise ConfigError(f"expected the folder of a run with log.jsonl and evaluations in it, got {folder}")
    return {row["step"]: row for row in rows}


def _save(figure: Any, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """`curves.py --out PICTURE --runs NAME=FOLDER,FOLDER ...`"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--runs", nargs="+", required=True, metavar="NAME=FOLDER,FOLDER")
    args = parser.parse_args(argv)
    try:
        pairs = [pair.partition("=") for pair in args.runs]
        draw_runs({name: [Path(f) for f in folders.split(",")] for name, _, folders in pairs}, args.out)
    except ConfigError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
