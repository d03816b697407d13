"""From predictions to numbers: every row of the result, over all items that could be scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qsave_reward.agreement import (
    Row,
    Scores,
    agreement_row,
    attribution_row,
    calibration_row,
    constant_row,
    generator_level_row,
    generator_mean_row,
    pairwise_row,
    plan_pairs,
    random_row,
    within_generator_row,
)
from qsave_reward.errors import QSaveError
from qsave_reward.evaluate.data import FROM_RATINGS
from qsave_reward.evaluate.predictions import Prediction
from qsave_reward.types import DIMENSIONS, VideoScore

OVERALL = "overall"
"""Name of the row that compares the mean of the three scores with an overall MOS."""

VIEWS = ("generator_level", "within_generator", "pairwise", "calibration")
"""Tables of the result that have a row for each dimension, beside the rows of the dimensions themselves."""

BASELINES = ("random", "constant", "generator_mean", "ceiling")


class Columns(NamedTuple):
    """The items with both a predicted and a true score in one dimension.

    Attributes:
        predicted: float64 [items], 1 to 5.
        spread: float64 [items], the standard deviations; `None` for the overall score, which has none.
        truth: float64 [items].
        prompts: the prompt of each item.
        generators: the maker of each item, or `None`.
        predictions: the items themselves.
    """

    predicted: Scores
    spread: Scores | None
    truth: Scores
    prompts: list[str]
    generators: list[str | None]
    predictions: list[Prediction]


def columns(predictions: Sequence[Prediction], name: str) -> Columns:
    """The columns of a dimension, or of `OVERALL`, in the order of the predictions."""
    kept, rows = [], []
    for p in predictions:
        truth = p.record.overall if name == OVERALL else p.record.mos.get(name)
        if isinstance(p.card, VideoScore) and truth is not None:
            score = None if name == OVERALL else p.card.scores[name]
            kept.append(p)
            rows.append((p.card.overall, 0.0, truth) if score is None else (score.mean, score.std, truth))
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return Columns(
        predicted=table[:, 0],
        spread=None if name == OVERALL else table[:, 1],
        truth=table[:, 2],
        prompts=[p.record.prompt for p in kept],
        generators=[p.record.generator for p in kept],
        predictions=kept,
    )


def rated(predictions: Sequence[Prediction]) -> tuple[str, ...]:
    """The rows to make: the three dimensions, and `OVERALL` where some item was rated overall."""
    overall = any(p.record.overall is not None for p in predictions)
    return (*DIMENSIONS, OVERALL) if overall else DIMENSIONS


def summarise(
    predictions: Sequence[Prediction], *, ceiling: Mapping[str, float], ceiling_source: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results and baselines, as `Evaluation` holds them.

    Args:
        predictions: all of them, in the order of the data.
        ceiling: the correlation of a perfect scorer, for each dimension where it is known.
        ceiling_source: how it is known.
    """
    results: dict[str, Any] = {}
    views: dict[str, dict[str, Row]] = {view: {} for view in VIEWS}
    baselines: dict[str, dict[str, Row]] = {baseline: {} for baseline in BASELINES}
    for name in rated(predictions):
        found = columns(predictions, name)
        pair, makers = (found.predicted, found.truth), found.generators
        plan, best = plan_pairs(found.prompts), ceiling.get(name)
        results[name] = {**agreement_row(*pair), "ceiling": best}
        views["generator_level"][name] = generator_level_row(*pair, generators=makers)
        views["within_generator"][name] = within_generator_row(*pair, generators=makers)
        views["pairwise"][name] = pairwise_row(*pair, plan=plan)
        if found.spread is not None:
            views["calibration"][name] = calibration_row(found.predicted, found.spread, truth=found.truth)
        baselines["random"][name] = random_row(found.truth, generators=makers, plan=plan)
        baselines["constant"][name] = constant_row(found.truth, plan=plan)
        baselines["generator_mean"][name] = generator_mean_row(found.truth, generators=makers, plan=plan)
        baselines["ceiling"][name] = _ceiling(best, ceiling_source)
    return {**results, **views, "attribution": _attribution(predictions)}, baselines


def _ceiling(best: float | None, source: str | None) -> Row:
    """The ceiling under the name of the correlation that it is one of: what ratings tell is a PLCC."""
    if best is None:
        unknown = "neither the true quality nor enough single ratings are known"
        return {"srcc": None, "plcc": None, "source": None, "reason": unknown}
    linear = source == FROM_RATINGS
    return {
        "srcc": None if linear else best,
        "plcc": best if linear else None,
        "source": source,
        "reason": None,
    }


def _attribution(predictions: Sequence[Prediction]) -> Row:
    """Attribution over the items whose defects are known and whose reasons could be read."""
    named = [p for p in predictions if p.defects is not None and p.duration is not None]
    row = attribution_row(
        [p.defects or () for p in named],
        [p.record.defects or () for p in named],
        durations=[p.duration or 0.0 for p in named],
    )
    if not named:
        row["reason"] = "no item has both known defects and an answer that names defects"
    return row | {"n_failed": sum(isinstance(p.reasons_error, QSaveError) for p in predictions)}
