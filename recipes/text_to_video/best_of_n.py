"""Best of n: the cheapest use of a reward, and the first check that it orders videos.

    python recipes/text_to_video/best_of_n.py --n 8 --json

Samples n videos for each prompt and prints, for 1, 2, 4 ... n, the quality of the one with the highest
reward, of the one the gold judge would take (the most that choosing can give), and of any one.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import evaluate
import numpy as np
from evaluation import FloatArray
from rich.console import Console
from rich.table import Table

from qsave_reward.errors import ConfigError, QSaveError


@dataclass(kw_only=True)
class BestOfOptions(evaluate.EvaluateOptions):
    """As `EvaluateOptions`; `n` takes the place of `videos`.

    Attributes:
        n: candidates for each prompt.
        plot: SVG to draw; empty: none.
    """

    n: int = 8
    plot: str = ""

    def __post_init__(self) -> None:
        if self.n < 2:
            raise ConfigError(f"n must be at least 2, got {self.n}")
        self.videos = self.n
        super().__post_init__()


def expected_best(choose_by: FloatArray, quality: FloatArray, size: int) -> float:
    """Mean quality of the best of `size` videos, over all subsets of those at hand.

    Of n videos in ascending order, number k is the best of C(k, size - 1) subsets.

    Args:
        choose_by: float64 [P, n], what the choice goes by.
        quality: float64 [P, n], what the choice is worth. Videos with NaN in either are never chosen.
        size: 1 to n.
    """
    means = []
    choose_by = np.where(np.isnan(quality), np.nan, choose_by)
    for row, worth in zip(choose_by, quality, strict=True):
        ranks = [(-math.inf if math.isnan(value) else value, -i) for i, value in enumerate(row)]
        order = sorted(range(len(row)), key=ranks.__getitem__)
        subsets = np.array([math.comb(k, size - 1) for k in range(len(row))], dtype=np.float64)
        subsets[np.isnan(row[order])] = 0
        if subsets.any():
            means.append(float(subsets @ np.where(subsets > 0, worth[order], 0) / subsets.sum()))
    return float(np.mean(means)) if means else math.nan


def outcomes(metrics: dict[str, FloatArray], n: int) -> dict[str, Any]:
    """Quality of the pick for sizes 1, 2, 4 ... n: by reward, by the gold judge, by chance."""
    sizes = sorted({2**k for k in range(n.bit_length()) if 2**k <= n} | {n})
    reward = metrics["reward.overall"]
    qualities = [name for name in ("reward.overall", "gold.overall", "held_out.overall") if name in metrics]
    result: dict[str, Any] = {"sizes": sizes}
    for name in qualities:
        quality = metrics[name]
        result[name] = {
            "picked": [expected_best(reward, quality, size) for size in sizes],
            "oracle": [expected_best(quality, quality, size) for size in sizes],
            "random": expected_best(reward, quality, 1),
        }
    return result


def main(argv: Sequence[str] | None = None) -> None:
    try:
        options = evaluate.options_from(BestOfOptions, argv)
        evaluation = evaluate.run(options)
    except QSaveError as error:
        sys.exit(f"error: {error}")
    found = outcomes(evaluation.metrics, options.n)
    if options.plot:
        from curves import draw_best_of

        draw_best_of(found, options.plot)
    if options.json:
        print(json.dumps(found | {"prompts": options.count, "failed": evaluation.failed()}))
        return
    for name, lines in found.items():
        if name == "sizes":
            continue
        table = Table("n", "picked by reward", "best there is", "any", title=name)
        for i, size in enumerate(found["sizes"]):
            table.add_row(
                str(size), f"{lines['picked'][i]:.3f}", f"{lines['oracle'][i]:.3f}", f"{lines['random']:.3f}"
            )
        Console().print(table)


if __name__ == "__main__":
    main()
