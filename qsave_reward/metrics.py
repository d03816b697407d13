"""Agreement with human scores and with known defects. Pure functions of arrays; numpy only.

Correlations follow the usual definitions and agree with scipy: Spearman with average ranks, Pearson,
Kendall's tau-b. A statistic that does not exist is never a number: a correlation with a constant, of fewer
than two points, or a mean over nothing raises `ConfigError` with `code="undefined"` instead of returning NaN.
Callers that print tables turn it into null beside the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsave_reward.errors import ConfigError
from qsave_reward.types import DIMENSIONS, Defect

Span = tuple[float, float]


def undefined(reason: str) -> ConfigError:
    """The error of a statistic that does not exist for the given values."""
    return ConfigError(reason, code="undefined")


def srcc(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's rank correlation, -1 to 1; tied values share their average rank.

    Raises:
        ConfigError: for unequal lengths or non-finite values; `code="undefined"` for constants and single
            points.
    """
    x, y = _pairs(predicted, truth)
    _check_varied(x, y)
    return _pearson(_ranks(x), _ranks(y))


def plcc(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Pearson's linear correlation of the raw values (no fitted mapping), -1 to 1. Errors as `srcc`."""
    x, y = _pairs(predicted, truth)
    _check_varied(x, y)
    return _pearson(x, y)


def krcc(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Kendall's tau-b, -1 to 1, in O(n log² n) by Knight's method. Errors as `srcc`."""
    x, y = _pairs(predicted, truth)
    _check_varied(x, y)
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
    x, y = _pairs(predicted, truth)
    if not len(x):
        raise undefined("a mean over no values does not exist")
    return float(np.sqrt(np.mean((x - y) ** 2)))


def bootstrap_ci(
    metric: Callable[..., float], *arrays: ArrayLike, n: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap: the middle 95 % of `metric` over resamples of the items.

    Args:
        metric: takes as many arrays as are given here; resampled along their first axis, together.
        *arrays: equal lengths.
        n: number of resamples. A resample for which the metric does not exist is left out.
        seed: of the resampling; equal inputs and seed give equal intervals.

    Raises:
        ConfigError: `code="undefined"` when the metric does not exist for more than half of the resamples.
    """
    values = [np.asarray(array) for array in arrays]
    size = len(values[0])
    if any(len(value) != size for value in values):
        raise ConfigError(f"expected arrays of one length, got {[len(value) for value in values]}")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        picked = rng.integers(0, size, size) if size else np.zeros(0, dtype=np.int64)
        try:
            found.append(metric(*(value[picked] for value in values)))
        except ConfigError as error:
            if error.code != "undefined":
                raise
    if 2 * len(found) < n:
        raise undefined(f"the metric exists for only {len(found)} of {n} resamples of {size} items")
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class Attribution:
    """Micro-averaged agreement of defect sets.

    Attributes:
        precision: correct / predicted; `None` when nothing was predicted.
        recall: correct / true; `None` when there was nothing to find.
        f1: 2 correct / (predicted + true); `None` when both are zero.
        n_correct, n_predicted, n_true: the counts, over all clips.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    n_correct: int
    n_predicted: int
    n_true: int


def attribution_f1(
    predicted: Sequence[Sequence[Defect]], truth: Sequence[Sequence[Defect]], *, dimension: str | None = None
) -> Attribution:
    """Compare the sets of (dimension, label) of each clip, pooled over clips; span and severity do not count.

    Args:
        predicted, truth: one sequence of defects a clip. The same label twice in a clip counts once.
        dimension: restrict both sides to one dimension; `None` pools all three.

    Raises:
        ConfigError: when the numbers of clips differ or the dimension is unknown.
    """
    _check_lengths(predicted, truth)
    if dimension is not None and dimension not in DIMENSIONS:
        raise ConfigError(f"unknown dimension {dimension!r}; expected one of {', '.join(DIMENSIONS)}")
    correct = n_predicted = n_true = 0
    for found, real in zip(predicted, truth, strict=True):
        names = {key for key in map(_key, found) if dimension in (None, key[0])}
        real_names = {key for key in map(_key, real) if dimension in (None, key[0])}
        correct += len(names & real_names)
        n_predicted += len(names)
        n_true += len(real_names)
    return Attribution(
        precision=correct / n_predicted if n_predicted else None,
        recall=correct / n_true if n_true else None,
        f1=2 * correct / (n_predicted + n_true) if n_predicted + n_true else None,
        n_correct=correct,
        n_predicted=n_predicted,
        n_true=n_true,
    )


def span_iou(
    predicted: Sequence[Sequence[Defect]], truth: Sequence[Sequence[Defect]], *, durations: Sequence[float]
) -> float:
    """Mean temporal intersection over union of the correctly labelled defects, 0 to 1.

    A defect without a span covers its whole clip. Spans of one label in one clip are united first, and cut to
    the clip. Two instants (spans of no length) agree fully when they are equal and not at all otherwise.

    Args:
        predicted, truth: one sequence of defects a clip.
        durations: seconds of each clip.

    Raises:
        ConfigError: when the numbers of clips differ; `code="undefined"` when no label was found correctly.
    """
    _check_lengths(predicted, truth)
    _check_lengths(predicted, durations)
    ious = []
    for found, real, duration in zip(predicted, truth, durations, strict=True):
        for key in sorted({*map(_key, found)} & {*map(_key, real)}):
            ious.append(_iou(_union(found, key, duration), _union(real, key, duration)))
    if not ious:
        raise undefined("no defect was labelled correctly, so there is no span to compare")
    return float(np.mean(ious))


def _key(defect: Defect) -> tuple[str, str]:
    return defect.dimension, defect.label


def _union(defects: Sequence[Defect], key: tuple[str, str], duration: float) -> list[Span]:
    """Disjoint sorted spans, in seconds, of all defects of one name."""
    spans = sorted(
        (0.0, duration)
        if defect.start is None or defect.end is None
        else (min(defect.start, duration), min(defect.end, duration))
        for defect in defects
        if _key(defect) == key
    )
    merged = spans[:1]
    for start, end in spans[1:]:
        if start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _iou(first: list[Span], second: list[Span]) -> float:
    covered = sum(end - start for spans in (first, second) for start, end in spans)
    shared = sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in first for b in second)
    if covered == 0.0:
        return float(first == second)
    return shared / (covered - shared)


def _check_lengths(first: Sequence[object], second: Sequence[object]) -> None:
    if len(first) != len(second):
        raise ConfigError(f"expected one entry a clip on both sides, got {len(first)} and {len(second)}")


def _pairs(predicted: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ConfigError(f"expected two flat arrays of one length, got shapes {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ConfigError("expected finite values; leave failed items out and count them")
    return x, y


def _check_varied(x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    if len(x) < 2:
        raise undefined(f"a correlation needs at least two items, got {len(x)}")
    for name, values in (("predictions", x), ("true scores", y)):
        if values.min() == values.max():
            raise undefined(f"a correlation does not exist: all {len(values)} {name} equal {values[0]:g}")


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    # Divide by the largest deviation first, so that the squares neither vanish nor overflow.
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip(np.dot(x, y) / (np.linalg.norm(x) * np.linalg.norm(y)), -1.0, 1.0))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values get the mean of the ranks they span."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[group], dtype=np.float64)


def _tied_pairs(values: NDArray[np.float64] | NDArray[np.complex128]) -> int:
    counts = np.unique(values, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _inversions(values: NDArray[np.float64]) -> int:
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
