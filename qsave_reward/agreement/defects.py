"""The row of agreement with true defects."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qsave_reward.agreement.row import Row, interval, value, with_reason
from qsave_reward.metrics import attribution_f1, span_iou, undefined
from qsave_reward.types import DIMENSIONS, Defect

Defects = Sequence[Sequence[Defect]]


def attribution_row(predicted: Defects, truth: Defects, *, durations: Sequence[float]) -> Row:
    """`precision`, `recall`, `f1`, `span_iou`; `ci95` of the F1 (bootstrap over clips); `per_dimension`;
    `n_true` defects in `n` clips; `reason`.

    Args:
        predicted: the defects named for each clip.
        truth: the defects of each clip.
        durations: seconds of each clip.
    """
    pooled = attribution_f1(predicted, truth)
    row: Row = {"precision": pooled.precision, "recall": pooled.recall, "f1": pooled.f1}
    row["span_iou"] = value(partial(span_iou, durations=durations), predicted, truth)
    each = [attribution_f1([found], [real]) for found, real in zip(predicted, truth, strict=True)]
    counts = np.array([(c.n_correct, c.n_predicted + c.n_true) for c in each], dtype=np.float64).reshape(
        -1, 2
    )
    row["ci95"] = value(partial(interval, of="clips"), _f1, counts)
    row = with_reason(row)
    if row["reason"] is None and None in (pooled.precision, pooled.recall, pooled.f1):
        row["reason"] = f"{pooled.n_predicted} defects were named and {pooled.n_true} were there"
    parts = {dimension: attribution_f1(predicted, truth, dimension=dimension) for dimension in DIMENSIONS}
    row["per_dimension"] = {
        dimension: {"precision": part.precision, "recall": part.recall, "f1": part.f1, "n_true": part.n_true}
        for dimension, part in parts.items()
    }
    return row | {"n": len(truth), "n_true": pooled.n_true}


def _f1(counts: NDArray[np.float64]) -> float:
    """F1 of clips with these numbers of correct and of predicted and true defects."""
    correct, named_and_real = counts.sum(axis=0)
    if not named_and_real:
        raise undefined("nothing was named and nothing was there")
    return float(2 * correct / named_and_real)
