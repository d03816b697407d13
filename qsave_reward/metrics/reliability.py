"""How well a perfect scorer could agree with a mean opinion score, from the single answers behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qsave_reward.errors import ConfigError
from qsave_reward.metrics.correlation import undefined


def ratings_ceiling(ratings: Sequence[Sequence[float]]) -> float:
    """PLCC of the true quality with the mean of the ratings, 0 to 1: the root of the means' reliability.

    With s² the variance of the answers to one item (pooled over the items) and k their number,
    reliability = 1 - mean(s² / k) / variance of the means over the items (Spearman 1904; the one-way ICC of
    Shrout and Fleiss 1979 where k is the same everywhere). Answers are taken to differ by chance alone: a
    rater who is stricter on every item makes this ceiling too low.

    Args:
        ratings: the answers to each item, at least one; items may have different numbers of them.

    Raises:
        ConfigError: for an item without answers or non-finite ones; `code="undefined"` when no item has two
            answers, when all means are equal, or when the answers differ by more than the items do.
    """
    items = [np.asarray(answers, dtype=np.float64) for answers in ratings]
    if any(not len(answers) or not np.isfinite(answers).all() for answers in items):
        raise ConfigError("expected at least one finite rating for each item; leave the others out")
    spare = sum(len(answers) - 1 for answers in items)
    if len(items) < 2 or not spare:
        raise undefined(f"a ceiling needs two items, one of them rated twice, got {len(items)} items")
    within = sum(float(((answers - answers.mean()) ** 2).sum()) for answers in items) / spare
    noise = float(np.mean([within / len(answers) for answers in items]))
    variance = float(np.var([answers.mean() for answers in items], ddof=1))
    if variance <= noise:
        raise undefined(
            "the ratings of one item differ by as much as the items do: there is no ceiling to tell"
        )
    return math.sqrt(1 - noise / variance)
