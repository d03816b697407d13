"""The four-parameter mapping: known curves are found again, and no fit is worse than scipy's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import OptimizeWarning, curve_fit

from qsave_reward.errors import ConfigError
from qsave_reward.metrics import fit_logistic, plcc, plcc_logistic
from qsave_reward.metrics.logistic import WIDTHS

SCORES = st.floats(1, 5).map(lambda value: round(value, 3))


def curve(x, top, bottom, center, width):
    return bottom + (top - bottom) / (1 + np.exp(-(x - center) / np.abs(width)))


def test_a_known_curve_is_found_again() -> None:
    x = np.linspace(1, 5, 40)
    fit = fit_logistic(x, curve(x, 4.5, 1.5, 2.8, 0.6))
    assert (fit.top, fit.bottom, fit.center, fit.width) == pytest.approx((4.5, 1.5, 2.8, 0.6), abs=1e-5)
    assert fit([2.8]) == pytest.approx([3.0])
    falling = fit_logistic(x, curve(x, 1.5, 4.5, 2.8, 0.6))
    assert (falling.top, falling.bottom, falling.center) == pytest.approx((1.5, 4.5, 2.8), abs=1e-5)


@pytest.mark.parametrize("seed", range(27))
def test_no_worse_than_scipy_from_the_customary_start(seed) -> None:
    rng = np.random.default_rng(seed)
    x = rng.uniform(1, 5, (6, 30, 400)[seed % 3])
    shapes = curve(x, 4.5, 1.2, rng.uniform(1, 5), rng.uniform(0.1, 2)), x**2 / 5, 6 - x
    y = shapes[seed // 3 % 3] + rng.normal(0, 0.3, len(x))
    ours = float(np.sum((fit_logistic(x, y)(x) - y) ** 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        start = [y.max(), y.min(), x.mean(), x.std() / 4]
        try:
            found, _ = curve_fit(curve, x, y, p0=start, maxfev=20000)
        except RuntimeError:
            pytest.skip("scipy gives up here: on a straight line the parameters run away")
    if abs(found[3]) < WIDTHS[0] * x.std():
        pytest.skip("scipy found a step between two items, which the bound on the width forbids")
    theirs = float(np.sum((curve(x, *found) - y) ** 2))
    assert ours <= theirs + 1e-6 * float(np.sum((y - y.mean()) ** 2))


@given(pairs=st.lists(st.tuples(SCORES, SCORES), min_size=5, max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_straight_line_is_among_the_curves(pairs) -> None:
    x, y = (np.array(side) for side in zip(*pairs, strict=True))
    if len(set(x)) == 1 or len(set(y)) == 1:
        with pytest.raises(ConfigError) as caught:
            plcc_logistic(x, y)
        assert caught.value.code == "undefined"
        return
    fitted = plcc_logistic(x, y)
    assert abs(plcc(x, y)) - 1e-3 <= fitted <= 1.0
    assert plcc_logistic(10 * x - 7, y) == pytest.approx(fitted, abs=1e-4)


def test_a_curved_relation_gains_and_tiny_or_huge_units_do_not_matter() -> None:
    x = np.linspace(-3, 3, 50)
    y = np.tanh(2 * x)
    assert plcc_logistic(x, y) == pytest.approx(1.0, abs=1e-9) and plcc(x, y) < 0.95
    assert plcc_logistic(1e150 * x, 1e-150 * y) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("values", [([], []), ([1, 2, 3, 4], [1, 2, 3, 5]), ([1] * 6, [1, 2, 3, 4, 5, 6])])
def test_too_few_or_equal_items_are_undefined(values) -> None:
    with pytest.raises(ConfigError) as caught:
        fit_logistic(*values)
    assert caught.value.code == "undefined"
