"""Correlations and error of predicted against true scores. They agree with scipy, and need numpy only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsave_reward.errors import ConfigError

Floats = NDArray[np.float64]


def undefined(reason: str) -> ConfigError:
    """The error of a statistic that does not exist for the given values."""
    return ConfigError(reason, code="undefined")


def srcc(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's rank correlation, -1 to 1; tied values share their average rank.

    Raises:
        ConfigError: for unequal lengths or non-finite values; `code="undefined"` for constants and single
            points.
    """
    x, y = paired(predicted, truth)
    check_varied(x, y)
    return _pearson(_ranks(x), _ranks(y))


def plcc(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Pearson's linear correlation of the raw values (no fitted mapping), -1 to 1. Errors as `srcc`."""
    x, y = paired(predicted, truth)
    check_varied(x, y)
    return _pearson(x, y)


def krcc(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's tau-b, -1 to 1, in O(n log² n) by Knight's method. Errors as `srcc`."""
    x, y = paired(predicted, truth)
    check_varied(x, y)
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    pairs = len(x) * (len(x) - 1) // 2
    tied_x, tied_y = _tied_pairs(x), _tied_pairs(y)
    tied_both = _tied_pairs(x + 1j * y)
    difference = pairs - tied_x - tied_y + tied_both - 2 * _inversions(y)
    tau = difference / math.sqrt(pairs - tied_x) / math.sqrt(pairs - tied_y)
    return min(max(tau, -1.0), 1.0)


def rmse(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Root of the mean squared difference, in the unit of the values; constants are fine.

    Raises:
        ConfigError: for unequal lengths or non-finite values; `code="undefined"` for no values.
    """
    x, y = paired(predicted, truth)
    if not len(x):
        raise undefined("a mean over no values does not exist")
    return float(np.sqrt(np.mean((x - y) ** 2)))


def main_score(predicted: ArrayLike, truth: ArrayLike) -> float:
    """(SRCC + PLCC) / 2, the ranking score of NTIRE 2025 XGC track 2, arXiv 2506.02875. Errors as `srcc`."""
    return (srcc(predicted, truth) + plcc(predicted, truth)) / 2


def paired(predicted: ArrayLike, truth: ArrayLike) -> tuple[Floats, Floats]:
    """Both sides as float64 [items], of one length and finite."""
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ConfigError(f"expected two flat arrays of one length, got shapes {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ConfigError("expected finite values; leave failed items out and count them")
    return x, y


def check_varied(x: Floats, y: Floats) -> None:
    if len(x) < 2:
        raise undefined(f"a correlation needs at least two items, got {len(x)}")
    for name, values in (("predictions", x), ("true scores", y)):
        if values.min() == values.max():
            raise undefined(f"a correlation does not exist: all {len(values)} {name} equal {values[0]:g}")


def _pearson(x: Floats, y: Floats) -> float:
    # Divide by the largest deviation first, so that the squares neither vanish nor overflow.
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip(np.dot(x, y) / (np.linalg.norm(x) * np.linalg.norm(y)), -1.0, 1.0))


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values get the mean of the ranks they span."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[group], dtype=np.float64)


def _tied_pairs(values: Floats | NDArray[np.complex128]) -> int:
    counts = np.unique(values, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _inversions(values: Floats) -> int:
    """Count the pairs i < j with values[i] > values[j]: a bottom-up merge sort, a whole level at a time."""
    ranks = np.unique(values, return_inverse=True)[1].astype(np.int64)
    size = 1 << max(len(ranks) - 1, 0).bit_length()
    top = len(ranks)
    blocks = np.full(size, top, dtype=np.int64)
    blocks[:top] = ranks
    count, width = 0, 1
    while width < size:
        rows = blocks.reshape(-1, 2, width)
        # Shift each pair of blocks into its own range, so that one search serves them all.
        shift = np.arange(len(rows))[:, None] * (top + 1)
        left, right = (rows[:, 0] + shift).ravel(), (rows[:, 1] + shift).ravel()
        not_larger = (
            np.searchsorted(left, right, side="right") - np.repeat(np.arange(len(rows)), width) * width
        )
        count += int((width - not_larger).sum())
        blocks = np.sort(rows.reshape(len(rows), -1), axis=1)
        width *= 2
    return count
