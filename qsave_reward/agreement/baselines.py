"""Rows to read beside a model: chance, the best constant, and the mean score of the clip's generator.

Each has the numbers at instance level, and under `pairwise` the accuracy on the same pairs as the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from qsave_reward.agreement.generators import NO_NAMES, generator_level_srcc
from qsave_reward.agreement.pairwise import PairPlan, keep_items, pairwise_accuracies
from qsave_reward.agreement.row import (
    METRICS,
    Row,
    Scores,
    short_row,
    value,
    with_reason,
    without_reason,
)
from qsave_reward.metrics import srcc

RANDOM_DRAWS = 200

Names = Sequence[str | None]


def random_row(truth: Scores, *, generators: Names, plan: PairPlan) -> Row:
    """Statistics of uniform random scores: means over `RANDOM_DRAWS` draws; `ci95` is their middle 95 %.

    `generator_level` holds the same two for the SRCC of the generators' means: with few generators, chance
    reaches far.
    """
    draws = np.random.default_rng(0).uniform(1, 5, (RANDOM_DRAWS, len(truth)))

    def mean(metric: partial[float]) -> float:
        return float(np.mean([metric(x) for x in draws]))

    def middle(metric: partial[float]) -> list[float]:
        return [float(end) for end in np.quantile([metric(x) for x in draws], [0.025, 0.975])]

    row: Row = {name: value(mean, partial(metric, truth=truth)) for name, metric in METRICS.items()}
    row["ci95"] = value(middle, partial(srcc, truth=truth))
    level = partial(generator_level_srcc, truth=truth, generators=generators)
    row = with_reason(row)
    row["generator_level"] = without_reason({"srcc": value(mean, level), "ci95": value(middle, level)})
    row["pairwise"] = {
        name: value(mean, partial(accuracy, truth=truth))
        for name, accuracy in pairwise_accuracies(plan).items()
    }
    return row | {"pairwise": without_reason(row["pairwise"])}


def constant_row(truth: Scores, *, plan: PairPlan) -> Row:
    """Statistics of the best constant, the mean of `truth` itself: it has an RMSE but ranks nothing."""
    constant = np.full(len(truth), truth.mean() if len(truth) else 0.0)
    row = with_reason({name: value(metric, constant, truth) for name, metric in METRICS.items()})
    return row | {"pairwise": _pairwise(constant, truth, plan)}


def generator_mean_row(truth: Scores, *, generators: Names, plan: PairPlan) -> Row:
    """What knowing the generator alone is worth: each item gets the mean true score of its generator.

    The mean is taken over the items of the *other* half of the prompts. (A mean that leaves out only the item
    itself falls as the item's own score rises, so that inside a generator it ranks the items exactly
    backwards; it would make this baseline look worse than it is.)

    Args:
        truth: float64 [items].
        generators: the maker of each item, or `None`.
        plan: the halves of the prompts, and the pairs to compare.

    Returns:
        a row of `short_row`, `pairwise`, and `n`, the items whose generator is also in the other half.
    """
    predicted = np.full(len(truth), np.nan)
    for name in {name for name in generators if name is not None}:
        mine = np.array([other == name for other in generators])
        for half in (plan.fitted, ~plan.fitted):
            if (mine & ~half).any():
                predicted[mine & half] = truth[mine & ~half].mean()
    kept = ~np.isnan(predicted)
    row = short_row(predicted[kept], truth[kept])
    if not any(generators):
        row["reason"] = NO_NAMES
    return row | {"pairwise": _pairwise(predicted[kept], truth[kept], keep_items(plan, kept))}


def _pairwise(predicted: Scores, truth: Scores, plan: PairPlan) -> Row:
    accuracies = pairwise_accuracies(plan)
    return without_reason({name: value(metric, predicted, truth) for name, metric in accuracies.items()})
