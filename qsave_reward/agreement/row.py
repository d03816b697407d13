"""How a row is filled, and the row of agreement with true scores, item by item."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsave_reward.errors import ConfigError
from qsave_reward.metrics import bootstrap_ci, krcc, main_score, plcc, plcc_logistic, rmse, srcc, undefined

Scores = NDArray[np.float64]
Row = dict[str, Any]

MIN_ITEMS = 3
"""Fewest items of a correlation: two always agree or disagree fully."""

MIN_RESAMPLED = 5
"""Fewest items, or prompts, of an interval: fewer often give one without width, as if all were certain."""

RESAMPLES = 1000
"""Of every bootstrap interval."""


def of_enough(metric: Callable[..., float]) -> Callable[..., float]:
    """A correlation that exists for `MIN_ITEMS` items and more only."""

    def checked(predicted: Scores, truth: Scores) -> float:
        if len(truth) < MIN_ITEMS:
            raise undefined(f"a correlation needs at least {MIN_ITEMS} items, got {len(truth)}")
        return metric(predicted, truth)

    return checked


METRICS: Mapping[str, Callable[..., float]] = {
    "srcc": of_enough(srcc),
    "plcc": of_enough(plcc),
    "krcc": of_enough(krcc),
    "rmse": rmse,
}


def agreement_row(predicted: Scores, truth: Scores) -> Row:
    """Agreement at instance level.

    Args:
        predicted: float64 [items], 1 to 5.
        truth: float64 [items], 1 to 5.

    Returns:
        `srcc`, `plcc`, `krcc`, `rmse`; `plcc_logistic`, the PLCC after the four-parameter mapping;
        `main_score`, (SRCC + PLCC) / 2; `ci95` of the SRCC; `intervals`, the same of `plcc`, `krcc`, `rmse`
        and `main_score` (all by bootstrap over items); `n`; `reason`.
    """
    others = {"plcc": plcc, "krcc": krcc, "rmse": rmse, "main_score": main_score}
    intervals = {name: value(interval, metric, predicted, truth) for name, metric in others.items()}
    return short_row(predicted, truth) | {"intervals": without_reason(intervals)}


def short_row(predicted: Scores, truth: Scores) -> Row:
    """As `agreement_row`, without `intervals`."""
    row: Row = {name: value(metric, predicted, truth) for name, metric in METRICS.items()}
    row["ci95"] = value(interval, srcc, predicted, truth)
    row["plcc_logistic"] = value(plcc_logistic, predicted, truth)
    row["main_score"] = value(of_enough(main_score), predicted, truth)
    return with_reason(row) | {"n": len(truth)}


def interval(metric: Callable[..., float], *columns: NDArray[Any], of: str = "items") -> list[float]:
    """Low and high end of the bootstrap interval of a metric of these columns, whose rows stand for `of`.

    Raises:
        ConfigError: `code="undefined"` for fewer than `MIN_RESAMPLED`, and as `bootstrap_ci`.
    """
    if len(columns[0]) < MIN_RESAMPLED:
        raise undefined(f"an interval needs at least {MIN_RESAMPLED} {of}, got {len(columns[0])}")
    return list(bootstrap_ci(metric, *columns, n=RESAMPLES))


def value(statistic: Callable[..., Any], *values: Any) -> Any:
    """The statistic, or the error that says why it does not exist."""
    try:
        return statistic(*values)
    except ConfigError as error:
        if error.code != "undefined":
            raise
        return error


def with_reason(row: Row) -> Row:
    """Replace errors by `None` and give the first of them as the reason."""
    reasons = [str(entry) for entry in row.values() if isinstance(entry, ConfigError)]
    return without_reason(row) | {"reason": reasons[0] if reasons else None}


def without_reason(row: Row) -> Row:
    """Replace errors by `None`."""
    return {name: None if isinstance(entry, ConfigError) else entry for name, entry in row.items()}
