"""The row that says whether the spread of a score tells how far off it may be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from qsave_reward.agreement.row import Row, Scores, of_enough, value, with_reason
from qsave_reward.metrics import error_spread_ratio, share_within, spread_error_srcc

BINS, BIN_ITEMS = 8, 5
"""Most bins, and fewest items of one."""


def calibration_row(mean: Scores, spread: Scores, *, truth: Scores) -> Row:
    """Calibration of the spread.

    Args:
        mean, truth: float64 [items], 1 to 5.
        spread: float64 [items], standard deviation of each score.

    Returns:
        `within_1_std` and `within_2_std`, shares of the items (0.68 and 0.95 for a calibrated normal error);
        `error_spread_ratio` (1 when calibrated, more when too confident); `spread_error_srcc`; `bins`, for
        equal numbers of items in the order of their spread the root mean square `spread` and `error` and
        `n`; `n`; `reason`.
    """
    statistics: dict[str, Callable[..., float]] = {
        "within_1_std": partial(share_within, truth=truth, widths=1),
        "within_2_std": partial(share_within, truth=truth, widths=2),
        "error_spread_ratio": partial(error_spread_ratio, truth=truth),
        "spread_error_srcc": of_enough(partial(spread_error_srcc, truth=truth)),
    }
    row: Row = {name: value(statistic, mean, spread) for name, statistic in statistics.items()}
    return with_reason(row) | {"bins": _bins(mean, spread, truth), "n": len(truth)}


def _bins(mean: Scores, spread: Scores, truth: Scores) -> list[dict[str, Any]]:
    number = min(BINS, len(truth) // BIN_ITEMS)
    order = np.argsort(spread, kind="stable")
    return [
        {
            "spread": float(np.sqrt(np.mean(spread[part] ** 2))),
            "error": float(np.sqrt(np.mean((truth - mean)[part] ** 2))),
            "n": len(part),
        }
        for part in (np.array_split(order, number) if number else [])
    ]
