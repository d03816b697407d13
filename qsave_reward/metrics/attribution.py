"""Agreement of named defects with known ones: their labels, and their spans in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qsave_reward.errors import ConfigError
from qsave_reward.metrics.correlation import undefined
from qsave_reward.types import DIMENSIONS, Defect

Span = tuple[float, float]


@dataclass(frozen=True)
class Attribution:
    """Micro-averaged agreement of defect sets.

    Attributes:
        precision: correct / predicted; `None` when nothing was predicted.
        recall: correct / true; `None` when there was nothing to find.
        f1: 2 correct / (predicted + true); `None` when both are zero.
        n_correct, n_predicted, n_true: the counts, over all clips.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    n_correct: int
    n_predicted: int
    n_true: int


def attribution_f1(
    predicted: Sequence[Sequence[Defect]], truth: Sequence[Sequence[Defect]], *, dimension: str | None = None
) -> Attribution:
    """Compare the sets of (dimension, label) of each clip, pooled over clips; span and severity do not count.

    Args:
        predicted, truth: one sequence of defects a clip. The same label twice in a clip counts once.
        dimension: restrict both sides to one dimension; `None` pools all three.

    Raises:
        ConfigError: when the numbers of clips differ or the dimension is unknown.
    """
    _check_lengths(predicted, truth)
    if dimension is not None and dimension not in DIMENSIONS:
        raise ConfigError(f"unknown dimension {dimension!r}; expected one of {', '.join(DIMENSIONS)}")
    correct = n_predicted = n_true = 0
    for found, real in zip(predicted, truth, strict=True):
        names = {key for key in map(_key, found) if dimension in (None, key[0])}
        real_names = {key for key in map(_key, real) if dimension in (None, key[0])}
        correct += len(names & real_names)
        n_predicted += len(names)
        n_true += len(real_names)
    return Attribution(
        precision=correct / n_predicted if n_predicted else None,
        recall=correct / n_true if n_true else None,
        f1=2 * correct / (n_predicted + n_true) if n_predicted + n_true else None,
        n_correct=correct,
        n_predicted=n_predicted,
        n_true=n_true,
    )


def span_iou(
    predicted: Sequence[Sequence[Defect]], truth: Sequence[Sequence[Defect]], *, durations: Sequence[float]
) -> float:
    """Mean temporal intersection over union of the correctly labelled defects, 0 to 1.

    A defect without a span covers its whole clip. Spans of one label in one clip are united first, and cut to
    the clip. Two instants (spans of no length) agree fully when they are equal and not at all otherwise.

    Args:
        predicted, truth: one sequence of defects a clip.
        durations: seconds of each clip.

    Raises:
        ConfigError: when the numbers of clips differ; `code="undefined"` when no label was found correctly.
    """
    _check_lengths(predicted, truth)
    _check_lengths(predicted, durations)
    ious = []
    for found, real, duration in zip(predicted, truth, durations, strict=True):
        for key in sorted({*map(_key, found)} & {*map(_key, real)}):
            ious.append(_iou(_union(found, key, duration), _union(real, key, duration)))
    if not ious:
        raise undefined("no defect was labelled correctly, so there is no span to compare")
    return float(np.mean(ious))


def _key(defect: Defect) -> tuple[str, str]:
    return defect.dimension, defect.label


def _union(defects: Sequence[Defect], key: tuple[str, str], duration: float) -> list[Span]:
    """Disjoint sorted spans, in seconds, of all defects of one name."""
    spans = sorted(
        (0.0, duration)
        if defect.start is None or defect.end is None
        else (min(defect.start, duration), min(defect.end, duration))
        for defect in defects
        if _key(defect) == key
    )
    merged = spans[:1]
    for start, end in spans[1:]:
        if start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _iou(first: list[Span], second: list[Span]) -> float:
    covered = sum(end - start for spans in (first, second) for start, end in spans)
    shared = sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in first for b in second)
    if covered == 0.0:
        return float(first == second)
    return shared / (covered - shared)


def _check_lengths(first: Sequence[object], second: Sequence[object]) -> None:
    if len(first) != len(second):
        raise ConfigError(f"expected one entry a clip on both sides, got {len(first)} and {len(second)}")
