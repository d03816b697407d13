"""Calibration of the spread, and the ceiling that single ratings set: known noise is found again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qsave_reward.errors import ConfigError
from qsave_reward.metrics import error_spread_ratio, plcc, ratings_ceiling, share_within, spread_error_srcc


def test_by_hand() -> None:
    mean, spread, truth = [3.0, 3.0, 3.0, 3.0], [1.0, 1.0, 2.0, 0.5], [3.5, 4.0, 0.0, 3.6]
    # |e| = 0.5, 1, 3, 0.6 against s = 1, 1, 2, 0.5.
    assert share_within(mean, spread, truth=truth, widths=1) == pytest.approx(2 / 4)
    assert share_within(mean, spread, truth=truth, widths=2) == pytest.approx(4 / 4)
    errors, spreads = 0.25 + 1 + 9 + 0.36, 1 + 1 + 4 + 0.25
    assert error_spread_ratio(mean, spread, truth=truth) == pytest.approx(math.sqrt(errors / spreads))
    # Ranks of s: 2.5, 2.5, 4, 1; of |e|: 1, 3, 4, 2. Pearson of these is 3 / sqrt(4.5 * 5).
    assert spread_error_srcc(mean, spread, truth=truth) == pytest.approx(3 / math.sqrt(22.5))


def test_a_calibrated_normal_error_is_recognised() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.2, 1.0, 20000)
    mean = rng.uniform(2, 4, 20000)
    truth = mean + spread * rng.normal(size=20000)
    assert share_within(mean, spread, truth=truth, widths=1) == pytest.approx(0.683, abs=0.01)
    assert share_within(mean, spread, truth=truth, widths=2) == pytest.approx(0.954, abs=0.01)
    assert error_spread_ratio(mean, spread, truth=truth) == pytest.approx(1.0, abs=0.02)
    assert error_spread_ratio(mean, spread / 2, truth=truth) == pytest.approx(2.0, abs=0.04)
    assert spread_error_srcc(mean, spread, truth=truth) > 0.25


def test_undefined_and_wrong_spreads() -> None:
    for values in (([], [], []), ([1, 2], [0, 0], [1, 3])):
        mean, spread, truth = values
        with pytest.raises(ConfigError) as caught:
            error_spread_ratio(mean, spread, truth=truth)
        assert caught.value.code == "undefined"
    with pytest.raises(ConfigError, match="spread"):
        share_within([], [], truth=[], widths=1)
    with pytest.raises(ConfigError, match="at least 0"):
        share_within([1.0], [-0.1], truth=[1.0], widths=1)
    # A spread of nothing is right about an error of nothing.
    assert share_within([1.0, 2.0], [0.0, 0.0], truth=[1.0, 3.0], widths=2) == 0.5


@pytest.mark.parametrize("raters", [2, 5])
def test_the_ceiling_is_what_a_perfect_scorer_reaches(raters) -> None:
    rng = np.random.default_rng(raters)
    quality = rng.normal(3, 0.8, 4000)
    ratings = quality[:, None] + rng.normal(0, 0.7, (4000, raters))
    reached = plcc(quality, ratings.mean(axis=1))
    assert ratings_ceiling(ratings.tolist()) == pytest.approx(reached, abs=0.02)
    assert ratings_ceiling(ratings.tolist()) == pytest.approx(
        math.sqrt(0.64 / (0.64 + 0.49 / raters)), abs=0.02
    )


def test_ceiling_by_hand_and_with_different_numbers_of_raters() -> None:
    # Means 1.5 and 4: variance 3.125. Within: 0.5 and 2 over one spare answer each, s² = 1.25; noise 0.625.
    assert ratings_ceiling([(1, 2), (3, 5)]) == pytest.approx(math.sqrt(1 - 0.625 / 3.125))
    # A single answer counts among the means and takes its noise, s² = 0.5, from the others.
    assert ratings_ceiling([(1, 2), (5,)]) == pytest.approx(math.sqrt(1 - 0.375 / 6.125))
    assert ratings_ceiling([(1, 1), (4, 4)]) == 1.0


@pytest.mark.parametrize("ratings", [[], [(1, 2)], [(1,), (2,)], [(1, 5), (5, 1)], [(1, 5), (2, 4.5)]])
def test_no_ceiling(ratings) -> None:
    with pytest.raises(ConfigError) as caught:
        ratings_ceiling(ratings)
    assert caught.value.code == "undefined"


@pytest.mark.parametrize("ratings", [[(), (1, 2)], [(1, math.nan), (2, 3)]])
def test_wrong_ratings(ratings) -> None:
    with pytest.raises(ConfigError, match="finite rating"):
        ratings_ceiling(ratings)
