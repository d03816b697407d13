"""Which of two clips is better: agreement on pairs, with and without ties.

Without ties, a pair counts when its true scores differ, and is right when the predictions differ the same
way; equal predictions earn the half that guessing would. With ties, every pair counts: predictions no further
apart than a margin are called a tie, and so are equal true scores. The margin decides much of that number (a
random scorer reaches 59 % on a public benchmark that fits it on the test pairs), so it must come from pairs
that are not reported: `fit_tie_margin` on one part, `pairwise_accuracy` on another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsave_reward.errors import ConfigError
from qsave_reward.metrics.correlation import Floats, paired, undefined

EQUAL = 1e-9
"""True scores closer than this are equal: means of the same answers, summed in another order."""


def pairwise_accuracy(
    predicted: ArrayLike, truth: ArrayLike, *, pairs: ArrayLike, tie_margin: float | None = None
) -> float:
    """Share of pairs that are ordered as the truth orders them, 0 to 1.

    Args:
        predicted, truth: scores, [items].
        pairs: int [pairs, 2], positions of two different items each.
        tie_margin: predictions no further apart are a tie; `None` leaves out the pairs that are truly tied.

    Raises:
        ConfigError: for wrong shapes, non-finite values or a negative margin; `code="undefined"` when no pair
            counts.
    """
    credits = pair_credits(predicted, truth, pairs=pairs, tie_margin=tie_margin)
    counted = credits[~np.isnan(credits)]
    if not len(counted):
        kind = "pair" if tie_margin is not None else "pair with different true scores"
        raise undefined(f"an accuracy needs at least one {kind}, got none of {len(credits)}")
    return float(counted.mean())


def pair_credits(
    predicted: ArrayLike, truth: ArrayLike, *, pairs: ArrayLike, tie_margin: float | None = None
) -> Floats:
    """What each pair earns, float64 [pairs]: 1, 0.5 or 0, and NaN where it does not count.

    Arguments and errors as `pairwise_accuracy`, which is the mean of what counts.
    """
    if tie_margin is not None and not tie_margin >= 0:
        raise ConfigError(f"expected a tie margin of at least 0, got {tie_margin}")
    ahead, really = _differences(predicted, truth, pairs)
    if tie_margin is None:
        credits = np.where(ahead == 0, 0.5, np.sign(ahead) == np.sign(really))
        return np.where(really == 0, np.nan, credits)
    called = np.where(np.abs(ahead) <= tie_margin, 0.0, np.sign(ahead))
    return np.asarray(called == np.sign(really), dtype=np.float64)


def fit_tie_margin(predicted: ArrayLike, truth: ArrayLike, *, pairs: ArrayLike) -> float:
    """The smallest margin with the best accuracy with ties on these pairs; in the unit of the scores.

    Errors as `pairwise_accuracy`.
    """
    ahead, really = _differences(predicted, truth, pairs)
    if not len(ahead):
        raise undefined("a tie margin needs at least one pair to be fitted on, got none")
    size = np.abs(ahead)
    order = np.argsort(size, kind="stable")
    size, tied = size[order], (really == 0)[order]
    right = (np.sign(ahead) == np.sign(really))[order] & ~tied
    # Calling the k closest pairs ties is right on the tied ones of them and on the other pairs in order.
    correct = np.append(0, np.cumsum(tied)) + right.sum() - np.append(0, np.cumsum(right))
    margins = np.append(0.0, size)
    # Equally close pairs are called together, and a margin of 0 calls the pairs with equal predictions.
    whole = np.append(size > margins[:-1], True)
    best = int(np.argmax(np.where(whole, correct, -1)))
    return float(margins[best])


def _differences(predicted: ArrayLike, truth: ArrayLike, pairs: ArrayLike) -> tuple[Floats, Floats]:
    """By how much the first of each pair is ahead, predicted and in truth, where 0 is a tie."""
    x, y = paired(predicted, truth)
    index: NDArray[np.int64] = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    if len(index) and not (index.min() >= 0 and index.max() < len(x)):
        raise ConfigError(f"expected pairs of positions below {len(x)}, got {index.min()} to {index.max()}")
    really = y[index[:, 0]] - y[index[:, 1]]
    return x[index[:, 0]] - x[index[:, 1]], np.where(np.abs(really) < EQUAL, 0.0, really)
