"""Three dimensions into one number: weights, soft minimum, floors, advantages. Pure functions of arrays.

The columns of every array are `DIMENSIONS`, in order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsave_reward.errors import ConfigError
from qsave_reward.types import DIMENSIONS

FloatArray = NDArray[np.float64]

EPSILON = 1e-4
"""Added to each standard deviation in `advantages`, as in the public code of GDPO."""


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number; true and false are not."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def scaled_weights(weights: Mapping[str, float] | None) -> FloatArray:
    """Weights float64 [3] with the sum 1.

    Args:
        weights: not negative, for all of `DIMENSIONS`; `None`: equal.

    Raises:
        ConfigError: for other names or numbers, or when all are zero.
    """
    if weights is None:
        return np.full(len(DIMENSIONS), 1 / len(DIMENSIONS))
    if not isinstance(weights, Mapping) or set(weights) != set(DIMENSIONS):
        raise ConfigError(f"weights must name each of {', '.join(DIMENSIONS)}, got {weights!r}")
    if not all(is_number(weight) and weight >= 0 for weight in weights.values()) or not any(weights.values()):
        raise ConfigError(f"weights must be finite, not negative and not all 0, got {dict(weights)}")
    given = np.array([float(weights[name]) for name in DIMENSIONS])
    given /= given.max()  # the sum of huge weights would not be finite
    scaled: FloatArray = given / given.sum()
    return scaled


def soft_minimum(values: FloatArray, weights: FloatArray, *, temperature: float) -> FloatArray:
    """-T log(sum of w exp(-value / T)): between the worst dimension with a weight and the weighted mean.

    Args:
        values: float64 [n, 3].
        weights: what `scaled_weights` gives.
        temperature: T in the units of `values`; small is close to the worst, large to the mean.

    Returns:
        float64 [n]; NaN for a row with NaN.
    """
    worst = np.min(values[:, weights > 0], axis=1)
    gaps = np.maximum(values - worst[:, None], 0.0)  # a dimension without weight may lie below
    soft: FloatArray = worst - temperature * np.log(np.sum(weights * np.exp(-gaps / temperature), axis=1))
    return soft


def hold_floors(
    combined: FloatArray, values: FloatArray, *, raw: FloatArray, floors: Mapping[str, float]
) -> FloatArray:
    """Limit each clip under a floor to its value in that dimension, however good it is elsewhere.

    Args:
        combined: float64 [n].
        values: float64 [n, 3], in the units of `combined`.
        raw: float64 [n, 3], scores 1 to 5.
        floors: lowest acceptable raw score of some dimensions.

    Returns:
        float64 [n]. It rises, or stays, when a raw score rises, if `combined` does.
    """
    for name, floor in floors.items():
        at = DIMENSIONS.index(name)
        combined = np.where(raw[:, at] < floor, np.minimum(combined, values[:, at]), combined)
    return combined


def advantages(
    values: ArrayLike, groups: Sequence[str | int], *, weights: Mapping[str, float] | None = None
) -> FloatArray:
    """Advantages of the clips of a batch, each dimension normalised in its group before it is weighted.

    GDPO (arXiv 2601.05242) as in its public code: in each group of clips of one prompt and for each dimension
    d, a_d = (value - mean) / (std + `EPSILON`); then a = sum of w_d a_d, divided by (its std over the batch +
    `EPSILON`). Standard deviations have the divisor n - 1; the mean of a is zero by construction. Where GDPO
    turns a missing reward into 0, it is left out here. With several processes, gather the values and groups
    of all ranks first.

    Args:
        values: float [n, 3]; a row with NaN is masked.
        groups: n prompts or prompt numbers.
        weights: as in `scaled_weights`.

    Returns:
        float64 [n]; NaN for masked rows; 0 where nothing can be compared: for a group without spread, and for
        the only valid clip of a group.

    Raises:
        ConfigError: for other shapes, infinite values, other kinds of groups, or wrong weights.
    """
    table = np.asarray(values, dtype=np.float64)
    names: list[Any] = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if table.shape != (len(names), len(DIMENSIONS)) or np.isinf(table).any():
        raise ConfigError(
            f"expected finite values [n, {len(DIMENSIONS)}] and n groups, got {table.shape} and {len(names)}"
        )
    if not all(isinstance(name, str | int) for name in names):
        kinds = ", ".join(sorted({type(name).__name__ for name in names}))
        raise ConfigError(
            f"expected groups as prompts or whole numbers, got {kinds}; try .tolist() on a tensor"
        )
    valid = ~np.isnan(table).any(axis=1)
    members: dict[str | int, list[int]] = {}
    for i in np.flatnonzero(valid).tolist():
        members.setdefault(names[i], []).append(i)
    normed = np.zeros_like(table)
    for group in members.values():
        if len(group) > 1:
            rows = table[group]
            # Rounding of the mean must not make a difference where there is none.
            differences = np.where(np.ptp(rows, axis=0) > 0, rows - rows.mean(axis=0), 0.0)
            normed[group] = differences / (rows.std(axis=0, ddof=1) + EPSILON)
    total = np.sum(normed * scaled_weights(weights), axis=1)
    if valid.sum() > 1:
        total /= total[valid].std(ddof=1) + EPSILON
    return np.where(valid, total, np.nan)
