"""Intervals of any statistic, by resampling the items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from qsave_reward.errors import ConfigError
from qsave_reward.metrics.correlation import undefined


def bootstrap_ci(
    metric: Callable[..., float], *arrays: ArrayLike, n: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap: the middle 95 % of `metric` over resamples of the items.

    Of a handful of items the interval is too narrow, often a point: ask for more before believing it.

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
