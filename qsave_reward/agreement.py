"""Rows of a results table: agreement with true scores, chance levels, and agreement with true defects.

Each row is a JSON-ready dict. A statistic that does not exist is `None`, and `reason` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsave_reward.errors import ConfigError
from qsave_reward.metrics import attribution_f1, bootstrap_ci, krcc, plcc, rmse, span_iou, srcc
from qsave_reward.types import DIMENSIONS, Defect

Scores = NDArray[np.float64]
Defects = Sequence[Sequence[Defect]]
Row = dict[str, Any]

METRICS: Mapping[str, Callable[..., float]] = {"srcc": srcc, "plcc": plcc, "krcc": krcc, "rmse": rmse}
RANDOM_DRAWS = 200


def agreement_row(predicted: Scores, truth: Scores) -> Row:
    """`srcc`, `plcc`, `krcc`, `rmse`, `ci95` of the SRCC (bootstrap over items), `n` and `reason`.

    Args:
        predicted: float64 [items], 1 to 5.
        truth: float64 [items], 1 to 5.
    """
    row: Row = {name: _value(metric, predicted, truth) for name, metric in METRICS.items()}
    row["ci95"] = _value(_interval, predicted, truth)
    return _with_reason(row) | {"n": len(truth)}


def random_row(truth: Scores) -> Row:
    """Statistics of uniform random scores: means over `RANDOM_DRAWS` draws; `ci95` is their middle 95 %."""
    draws = np.random.default_rng(0).uniform(1, 5, (RANDOM_DRAWS, len(truth)))
    row: Row = {
        name: _value(lambda truth, metric=metric: float(np.mean([metric(x, truth) for x in draws])), truth)
        for name, metric in METRICS.items()
    }
    row["ci95"] = _value(
        lambda truth: np.quantile([srcc(x, truth) for x in draws], [0.025, 0.975]).tolist(), truth
    )
    return _with_reason(row)


def constant_row(truth: Scores) -> Row:
    """Statistics of the best constant, the mean of `truth` itself: it has an RMSE but ranks nothing."""
    constant = np.full(len(truth), truth.mean() if len(truth) else 0.0)
    return _with_reason({name: _value(metric, constant, truth) for name, metric in METRICS.items()})


def attribution_row(predicted: Defects, truth: Defects, *, durations: Sequence[float]) -> Row:
    """`precision`, `recall`, `f1`, `span_iou`, `per_dimension`, `n` and `reason`.

    Args:
        predicted: the defects named for each clip.
        truth: the defects of each clip.
        durations: seconds of each clip.
    """
    pooled = attribution_f1(predicted, truth)
    row: Row = {"precision": pooled.precision, "recall": pooled.recall, "f1": pooled.f1}
    row["span_iou"] = _value(partial(span_iou, durations=durations), predicted, truth)
    row = _with_reason(row)
    if row["reason"] is None and None in (pooled.precision, pooled.recall, pooled.f1):
        row["reason"] = f"{pooled.n_predicted} defects were named and {pooled.n_true} were there"
    parts = {dimension: attribution_f1(predicted, truth, dimension=dimension) for dimension in DIMENSIONS}
    row["per_dimension"] = {
        dimension: {"precision": part.precision, "recall": part.recall, "f1": part.f1, "n_true": part.n_true}
        for dimension, part in parts.items()
    }
    return row | {"n": len(truth)}


def _interval(predicted: Scores, truth: Scores) -> list[float]:
    return list(bootstrap_ci(srcc, predicted, truth))


def _value(statistic: Callable[..., Any], *values: Any) -> Any:
    """The statistic, or the error that says why it does not exist."""
    try:
        return statistic(*values)
    except ConfigError as error:
        if error.code != "undefined":
            raise
        return error


def _with_reason(row: Row) -> Row:
    """Replace errors by `None` and give the first of them as the reason."""
    reasons = [str(value) for value in row.values() if isinstance(value, ConfigError)]
    clean = {name: None if isinstance(value, ConfigError) else value for name, value in row.items()}
    return clean | {"reason": reasons[0] if reasons else None}
