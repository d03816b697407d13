"""Does a score's spread say how far off it may be? Error e = truth - mean, spread s = standard deviation.

A normal error with the stated spread has |e| <= s in 68 % and |e| <= 2 s in 95 % of the cases, and
root(mean e²) / root(mean s²) = 1; a larger ratio means too much confidence, a smaller one too little. A
spread that is off by a factor still helps if larger ones go with larger errors: `spread_error_srcc`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from qsave_reward.errors import ConfigError
from qsave_reward.metrics.correlation import Floats, paired, rmse, srcc, undefined


def share_within(mean: ArrayLike, spread: ArrayLike, *, truth: ArrayLike, widths: float) -> float:
    """Share of the items with |e| <= `widths` · s, 0 to 1.

    Args:
        mean: predicted scores, [items].
        spread: their standard deviations, [items], not negative.
        truth: true scores, [items].
        widths: how many spreads count as near.

    Raises:
        ConfigError: for unequal lengths, non-finite values or negative spreads; `code="undefined"` for no
            items.
    """
    error, s = _errors(mean, spread, truth)
    # A hair wider, so that an error of exactly the spread counts whatever the last bit says.
    return float(np.mean(np.abs(error) <= widths * s + 1e-9))


def error_spread_ratio(mean: ArrayLike, spread: ArrayLike, *, truth: ArrayLike) -> float:
    """root(mean e²) / root(mean s²); 1 is calibrated. Also undefined when every spread is 0.

    Arguments and errors as `share_within`.
    """
    _, s = _errors(mean, spread, truth)
    if not s.any():
        raise undefined(f"no ratio to the spread exists: all {len(s)} spreads are 0")
    return rmse(mean, truth) / float(np.sqrt(np.mean(s**2)))


def spread_error_srcc(mean: ArrayLike, spread: ArrayLike, *, truth: ArrayLike) -> float:
    """Spearman's correlation of s with |e|, -1 to 1. Arguments as `share_within`, errors as `srcc` too."""
    error, s = _errors(mean, spread, truth)
    return srcc(s, np.abs(error))


def _errors(mean: ArrayLike, spread: ArrayLike, truth: ArrayLike) -> tuple[Floats, Floats]:
    x, y = paired(mean, truth)
    s, _ = paired(spread, truth)
    if not len(s):
        raise undefined("the spread of no items has no calibration")
    if s.min() < 0:
        raise ConfigError(f"expected spreads of at least 0, got {s.min():g}")
    return y - x, s
