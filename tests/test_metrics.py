"""Metrics against scipy, hand-computed values, and the promise that no undefined number ever comes out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError
from qsave_reward.metrics import attribution_f1, bootstrap_ci, krcc, plcc, rmse, span_iou, srcc
from qsave_reward.types import Defect

PAIRS = {"srcc": (srcc, scipy.stats.spearmanr), "plcc": (plcc, scipy.stats.pearsonr)}
PAIRS["krcc"] = (krcc, scipy.stats.kendalltau)
LEVELS = st.integers(1, 5).map(float)
SMOOTH = st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: round(v, 3))


@pytest.mark.parametrize("name", PAIRS)
@given(pairs=st.lists(st.tuples(LEVELS, SMOOTH), min_size=2, max_size=40))
@settings(max_examples=150, deadline=None)
def test_correlations_agree_with_scipy(name: str, pairs: list[tuple[float, float]]) -> None:
    ours, theirs = PAIRS[name]
    x, y = (np.array(side) for side in zip(*pairs, strict=True))
    if len(set(x)) == 1 or len(set(y)) == 1:
        with pytest.raises(ConfigError) as caught:
            ours(x, y)
        assert caught.value.code == "undefined"
        return
    assert ours(x, y) == pytest.approx(theirs(x, y).statistic, abs=1e-6)
    assert ours(x, y) == pytest.approx(ours(y, x), abs=1e-12)


@pytest.mark.parametrize("size", [2, 3, 63, 64, 65, 3000])
def test_correlations_agree_with_scipy_on_many_ties(size: int) -> None:
    rng = np.random.default_rng(size)
    x = np.concatenate([[1, 2], rng.integers(1, 6, size - 2)]).astype(float)
    y = np.round(x + rng.normal(0, 1, size), 1)
    for ours, theirs in PAIRS.values():
        assert ours(x, y) == pytest.approx(theirs(x, y).statistic, abs=1e-10)


def test_hand_computed_values() -> None:
    # Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: Pearson of the ranks is 4.5 / sqrt(4.5 * 5).
    assert srcc([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(4.5 / math.sqrt(22.5))
    # Six pairs, one tied in x, five concordant: 5 / sqrt(5 * 6).
    assert krcc([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(5 / math.sqrt(30))
    assert plcc([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert rmse([1, 2, 3], [1, 4, 3]) == pytest.approx(math.sqrt(4 / 3))
    assert srcc([5, 4, 3], [1, 2, 3]) == pytest.approx(-1.0)
    assert krcc([5, 4, 3], [1, 2, 3]) == pytest.approx(-1.0)


def test_tiny_and_huge_values_keep_their_correlation() -> None:
    x = np.array([1.0, 2.0, 4.0])
    assert plcc(x * 1e-200, x * 1e200) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", [srcc, plcc, krcc])
@pytest.mark.parametrize("values", [([], []), ([1.0], [2.0]), ([3.0, 3.0], [1.0, 2.0]), ([1, 2], [4, 4])])
def test_undefined_correlations_are_errors(metric, values) -> None:
    with pytest.raises(ConfigError) as caught:
        metric(*values)
    assert caught.value.code == "undefined"


@pytest.mark.parametrize("metric", [srcc, plcc, krcc, rmse])
@pytest.mark.parametrize(
    "values", [([1, math.nan], [1, 2]), ([1, 2], [1, math.inf]), ([1, 2], [1]), ([[1]], [[1]])]
)
def test_wrong_values_are_errors_of_another_kind(metric, values) -> None:
    with pytest.raises(ConfigError) as caught:
        metric(*values)
    assert caught.value.code == "bad_config"


def test_rmse_of_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no values"):
        rmse([], [])


def test_bootstrap_covers_the_known_correlation_and_repeats() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(40):
        x = rng.normal(size=150)
        y = 0.6 * x + 0.8 * rng.normal(size=150)
        low, high = bootstrap_ci(plcc, x, y, n=200, seed=seed)
        covered += low <= 0.6 <= high
    assert covered >= 34
    assert bootstrap_ci(plcc, x, y, n=50, seed=7) == bootstrap_ci(plcc, x, y, n=50, seed=7)
    assert bootstrap_ci(plcc, x, y, n=50, seed=7) != bootstrap_ci(plcc, x, y, n=50, seed=8)


def test_bootstrap_without_a_metric_is_an_error() -> None:
    for values in ([], [2.0, 2.0]):
        with pytest.raises(ConfigError) as caught:
            bootstrap_ci(srcc, values, values, n=20)
        assert caught.value.code == "undefined"
    with pytest.raises(ConfigError, match="one length"):
        bootstrap_ci(srcc, [1, 2], [1, 2, 3])
    with pytest.raises(ConfigError, match="finite"):
        bootstrap_ci(srcc, [1, math.nan], [1, 2])


def blur(start: float | None = None, end: float | None = None) -> Defect:
    return Defect("visual_quality", "blur", 0.5, start, end)


JUMP = Defect("dynamic_quality", "jump", 0.9, 1.0, 2.0)


def test_attribution_counts_names_once_a_clip() -> None:
    truth = [[blur(), JUMP], [], [blur()]]
    found = [[blur(0, 1), blur(1, 2)], [JUMP], [blur()]]
    pooled = attribution_f1(found, truth)
    assert (pooled.n_correct, pooled.n_predicted, pooled.n_true) == (2, 3, 3)
    assert pooled.precision == pooled.recall == pooled.f1 == pytest.approx(2 / 3)
    assert attribution_f1(found, truth, dimension="visual_quality").f1 == 1.0
    assert attribution_f1(found, truth, dimension="dynamic_quality").f1 == 0.0


def test_attribution_of_the_same_label_in_another_dimension_is_wrong() -> None:
    elsewhere = Defect("dynamic_quality", "blur", 0.5)
    assert attribution_f1([[elsewhere]], [[blur()]]).f1 == 0.0


def test_attribution_over_nothing_is_none_and_never_a_number() -> None:
    nothing = attribution_f1([[]], [[]])
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)
    silent = attribution_f1([[]], [[blur()]])
    assert (silent.precision, silent.recall, silent.f1) == (None, 0.0, 0.0)
    with pytest.raises(ConfigError, match="both sides"):
        attribution_f1([[]], [])
    with pytest.raises(ConfigError, match="unknown dimension"):
        attribution_f1([[]], [[]], dimension="sound")


@pytest.mark.parametrize(
    ("found", "real", "expected"),
    [
        ([blur(0, 1)], [blur(0, 1)], 1.0),
        ([blur(0, 2)], [blur(1, 3)], 1 / 3),
        ([blur()], [blur(0, 1)], 0.25),
        ([blur()], [blur()], 1.0),
        ([blur(0, 9)], [blur()], 1.0),
        ([blur(5, 9)], [blur(1, 2)], 0.0),
        ([blur(0, 1), blur(3, 4)], [blur()], 0.5),
        ([blur(0, 2), blur(1, 3)], [blur(0, 3)], 1.0),
        ([blur(2, 2)], [blur(2, 2)], 1.0),
        ([blur(1, 1)], [blur(2, 2)], 0.0),
        ([blur(1, 1)], [blur(0, 2)], 0.0),
        ([blur(0, 1), JUMP], [blur(0, 1)], 1.0),
    ],
)
def test_span_iou_by_hand(found, real, expected) -> None:
    assert span_iou([found], [real], durations=[4.0]) == pytest.approx(expected)


def test_span_iou_averages_over_defects_not_clips() -> None:
    found = [[blur(0, 1), JUMP], [blur(0, 1)]]
    real = [[blur(0, 1), JUMP], [blur(2, 3)]]
    assert span_iou(found, real, durations=[4.0, 4.0]) == pytest.approx(2 / 3)
    with pytest.raises(ConfigError) as caught:
        span_iou([[blur()]], [[JUMP]], durations=[4.0])
    assert caught.value.code == "undefined"
