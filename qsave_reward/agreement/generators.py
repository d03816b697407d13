"""Rows that know which generator made a clip: does the scorer rank generators, and clips of one generator?

A scorer that only recognises generators does well item by item on a mixed set. The within-generator row shows
what is left, and the generator-level row is the number to read when generators are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qsave_reward.agreement.row import METRICS, MIN_ITEMS, Row, Scores, interval, value, with_reason
from qsave_reward.errors import ConfigError
from qsave_reward.metrics import krcc, main_score, plcc, rmse, srcc, undefined

Codes = NDArray[np.int64]

MIN_GENERATORS = 3
"""Two means always agree or disagree fully, so a correlation over generators starts at three."""

NO_NAMES = "no item names its generator"


def generator_level_row(predicted: Scores, truth: Scores, *, generators: Sequence[str | None]) -> Row:
    """Agreement of the mean scores of the generators.

    Args:
        predicted, truth: float64 [items].
        generators: the maker of each item, or `None`; items without one are left out.

    Returns:
        `srcc`, `plcc`, `krcc`, `rmse`, `main_score`; `ci95` of the SRCC (bootstrap over generators, so it is
        wide where they are few); `n`, how many generators; `generators`, for each its `n`, `predicted` and
        `truth`; `reason`.
    """
    names, x, y, counts = _means(predicted, truth, generators)
    metrics = {**METRICS, "main_score": main_score}
    columns = x, y, np.arange(len(names))
    row: Row = {name: value(_compared(metric), *columns) for name, metric in metrics.items()}
    # An error needs no ranks, so it exists for a single generator too.
    row["rmse"] = value(rmse, x, y)
    row["ci95"] = value(partial(interval, of="generators"), _compared(srcc), *columns)
    row = with_reason(row) | {"n": len(names)}
    if not names:
        row["reason"] = NO_NAMES
    means = zip(names, counts.tolist(), x.tolist(), y.tolist(), strict=True)
    row["generators"] = {name: {"n": n, "predicted": p, "truth": t} for name, n, p, t in means}
    return row


def generator_level_srcc(predicted: Scores, truth: Scores, *, generators: Sequence[str | None]) -> float:
    """The SRCC of `generator_level_row`; `ConfigError` with `code="undefined"` where it does not exist."""
    names, x, y, _ = _means(predicted, truth, generators)
    return _compared(srcc)(x, y, np.arange(len(names)))


def within_generator_row(predicted: Scores, truth: Scores, *, generators: Sequence[str | None]) -> Row:
    """Agreement inside each generator, averaged over generators with equal weight.

    A generator with fewer than `MIN_ITEMS` items, or with equal scores on either side, has no correlation and
    is left out. Arguments as `generator_level_row`.

    Returns:
        `srcc`, `plcc`, `krcc`; `ci95` of the SRCC (bootstrap over items); `n`, how many generators were used;
        `n_left_out`, how many were not; `generators`, for each one used its `n` and `srcc`; `reason`.
    """
    names, codes = _coded(generators)
    kept = codes >= 0
    columns = predicted[kept], truth[kept], codes[kept]
    metrics = {"srcc": srcc, "plcc": plcc, "krcc": krcc}
    row: Row = {name: value(_inside_generators(metric), *columns) for name, metric in metrics.items()}
    row["ci95"] = value(interval, _inside_generators(srcc), *columns)
    row = with_reason(row)
    used = {names[code]: {"n": n, "srcc": found} for code, n, found in _each(srcc, *columns)}
    if not names:
        row["reason"] = NO_NAMES
    return row | {"n": len(used), "n_left_out": len(names) - len(used), "generators": used}


def _coded(generators: Sequence[str | None]) -> tuple[list[str], Codes]:
    """The names in order, and for each item the position of its own, -1 for none."""
    names = sorted({name for name in generators if name is not None})
    places = {name: place for place, name in enumerate(names)}
    codes = [-1 if name is None else places[name] for name in generators]
    return names, np.array(codes, dtype=np.int64)


def _means(
    predicted: Scores, truth: Scores, generators: Sequence[str | None]
) -> tuple[list[str], Scores, Scores, Codes]:
    """Names of the generators; mean prediction, mean truth and number of items of each."""
    names, codes = _coded(generators)
    kept = codes >= 0
    counts = np.bincount(codes[kept], minlength=len(names))
    x, y = (np.bincount(codes[kept], values[kept], len(names)) / counts for values in (predicted, truth))
    return names, x, y, counts


def _compared(metric: Callable[..., float]) -> Callable[..., float]:
    """The metric of the means of generators; their places tell the different ones in a resample."""

    def of_means(predicted: Scores, truth: Scores, places: Codes) -> float:
        different = len(np.unique(places))
        if different < MIN_GENERATORS:
            raise undefined(f"a comparison needs at least {MIN_GENERATORS} generators, got {different}")
        return metric(predicted, truth)

    return of_means


def _inside_generators(metric: Callable[..., float]) -> Callable[..., float]:
    """The mean of the metric inside each generator."""

    def mean_inside(predicted: Scores, truth: Scores, codes: Codes) -> float:
        found = [part for _, _, part in _each(metric, predicted, truth, codes)]
        if not found:
            raise undefined(f"no generator has {MIN_ITEMS} items with different scores")
        return float(np.mean(found))

    return mean_inside


def _each(
    metric: Callable[..., float], predicted: Scores, truth: Scores, codes: Codes
) -> Iterator[tuple[int, int, float]]:
    """Code, number of items and metric of each generator in which the metric exists."""
    for code in np.unique(codes).tolist():
        mine = codes == code
        if mine.sum() < MIN_ITEMS:
            continue
        try:
            yield code, int(mine.sum()), metric(predicted[mine], truth[mine])
        except ConfigError as error:
            if error.code != "undefined":
                raise
