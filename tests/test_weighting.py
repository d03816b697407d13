"""Weights, soft minimum, floors and advantages against independent computations, and their promises."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError
from qsave_reward.types import DIMENSIONS
from qsave_reward.weighting import advantages, hold_floors, scaled_weights, soft_minimum

points = st.floats(1, 5)
rows = st.tuples(points, points, points)
shares = st.tuples(*[st.floats(0, 10)] * 3).filter(lambda given: sum(given) > 0.01)


def named(*weights):
    return dict(zip(DIMENSIONS, weights, strict=True))


def test_weights_are_scaled_to_the_sum_1_in_the_order_of_dimensions():
    assert scaled_weights(None).tolist() == pytest.approx([1 / 3] * 3)
    assert scaled_weights(dict(reversed(named(1, 3, 4).items()))).tolist() == [0.125, 0.375, 0.5]
    assert scaled_weights(named(0, 0, 1e308)).tolist() == [0, 0, 1]
    assert scaled_weights(named(1e308, 1e308, 0)).tolist() == [0.5, 0.5, 0]
    assert scaled_weights(named(np.float32(1), 1, np.int64(2))).tolist() == [0.25, 0.25, 0.5]


@pytest.mark.parametrize(
    "weights",
    [
        named(1, -0.1, 1),
        named(0, 0, 0),
        named(1, float("nan"), 1),
        named(1, float("inf"), 1),
        named(1, "1", 1),
        named(1, True, 1),
        {"visual_quality": 1.0},
        named(1, 1, 1) | {"motion": 1.0},
        {"VQ": 1, "MQ": 1, "TA": 1},
        {},
        (1, 1, 1),
    ],
)
def test_wrong_weights_are_refused(weights):
    with pytest.raises(ConfigError, match="weights must"):
        scaled_weights(weights)
    with pytest.raises(ConfigError, match="weights must"):
        advantages([[1, 2, 3], [3, 2, 1]], ["a", "a"], weights=weights)


@given(rows, shares, st.floats(0.01, 100))
def test_soft_minimum_is_the_formula_and_lies_between_worst_and_mean(row, weights, temperature):
    weights = scaled_weights(named(*weights))
    (soft,) = soft_minimum(np.array([row]), weights, temperature=temperature)
    counted = [(value, weight) for value, weight in zip(row, weights.tolist(), strict=True) if weight > 0]
    plain = math.fsum(weight * math.exp((1 - value) / temperature) for value, weight in counted)
    if plain > 1e-250:
        assert soft == pytest.approx(1 - temperature * math.log(plain), abs=1e-7)
    mean = math.fsum(value * weight for value, weight in counted)
    assert min(value for value, _ in counted) - 1e-9 <= soft <= mean + 1e-9


def test_soft_minimum_at_both_ends():
    values, weights = (
        np.array([[1.0, 2.0, 5.0], [4.0, 3.0, 1.0], [np.nan] * 3]),
        scaled_weights(named(1, 1, 0)),
    )
    cold, hot = (soft_minimum(values, weights, temperature=t) for t in (0.001, 1000))
    np.testing.assert_allclose(cold, [1.0, 3.0, np.nan], atol=0.001)
    np.testing.assert_allclose(hot, [1.5, 3.5, np.nan], atol=0.001)


def test_floors_limit_to_the_value_of_the_dimension():
    raw = np.array([[1.9, 5.0, 5.0], [2.0, 5.0, 5.0], [1.9, 1.0, 1.0], [np.nan] * 3])
    combined = raw.mean(axis=1)
    held = hold_floors(combined, raw, raw=raw, floors={"visual_quality": 2.0})
    np.testing.assert_array_equal(held, [1.9, 4.0, combined[2], np.nan])
    held = hold_floors(combined, raw - 1, raw=raw, floors={"visual_quality": 2.0, "text_alignment": 2.0})
    np.testing.assert_allclose(held, [0.9, 4.0, 0.0, np.nan])


def gdpo(values, size, weights):
    """The public code of GDPO, for groups that lie together and have one size."""
    table = torch.tensor(values, dtype=torch.float64)
    parts = []
    for column in table.T:
        mean = column.view(-1, size).mean(dim=1).repeat_interleave(size)
        std = column.view(-1, size).std(dim=1).repeat_interleave(size)
        parts.append((column - mean) / (std + 1e-4))
    total = (torch.stack(parts, dim=1) * torch.tensor(weights)).sum(dim=1)
    return ((total - total.mean()) / (total.std() + 1e-4)).numpy()


@given(st.lists(rows, min_size=12, max_size=12), st.sampled_from([2, 3, 4, 6]))
def test_advantages_are_those_of_gdpo(table, size):
    groups = [f"prompt {i // size}" for i in range(12)]
    ours = advantages(table, groups, weights=named(1, 2, 1))
    np.testing.assert_allclose(ours, gdpo(table, size, [0.25, 0.5, 0.25]), atol=1e-6)


def test_advantages_by_hand():
    """Two clips differ by 2 points in one dimension: std sqrt(2), a = +-1/sqrt(2), twice over the batch."""
    values = [[1, 3, 3], [3, 3, 3], [3, 1, 2], [3, 3, 2]]
    a = 1 / (math.sqrt(2) + 1e-4) / 3
    std = math.sqrt(4 * a**2 / 3)
    expected = a / (std + 1e-4)
    np.testing.assert_allclose(
        advantages(values, [7, 7, 8, 8]), [-expected, expected, -expected, expected], rtol=1e-12
    )


@given(st.lists(rows, min_size=2, max_size=12), st.data())
def test_a_group_without_spread_gives_exactly_0(table, data):
    tied = [data.draw(rows)] * data.draw(st.integers(1, 7))
    result = advantages([*tied, *table], ["tied"] * len(tied) + ["other"] * len(table))
    assert result[: len(tied)].tolist() == [0.0] * len(tied)
    assert np.isfinite(result).all()


def test_rounding_of_a_mean_makes_no_difference():
    assert np.mean([3.7] * 3) != 3.7
    assert advantages([[3.7] * 3] * 3, ["a"] * 3).tolist() == [0.0] * 3


@given(st.lists(st.tuples(rows, st.integers(0, 2)), min_size=1, max_size=12), st.data())
def test_masked_rows_stay_nan_and_change_nothing(members, data):
    table, groups = [list(row) for row, _ in members], [group for _, group in members]
    alone = advantages(table, groups)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(table)))
        table.insert(at, data.draw(st.sampled_from([[np.nan] * 3, [1.0, np.nan, 5.0]])))
        groups.insert(at, data.draw(st.integers(0, 3)))
    with_masked = advantages(table, groups)
    masked = np.isnan(table).any(axis=1)
    assert np.isnan(with_masked[masked]).all()
    np.testing.assert_array_equal(with_masked[~masked], alone)


def test_what_cannot_be_compared_gives_0():
    nan = [np.nan] * 3
    result = advantages([[5, 1, 3], nan, [1, 2, 3], [2, 3, 4], [4, 4, 4]], ["a", "a", "b", "c", "c"])
    assert result[[0, 2]].tolist() == [0, 0]
    assert np.isnan(result[1])
    assert result[4] > 0 > result[3]
    assert advantages([[1, 2, 3]], ["a"]).tolist() == [0]
    assert advantages(np.zeros((0, 3)), []).tolist() == []


@given(st.lists(rows, min_size=6, max_size=6), st.integers(0, 2), st.floats(1, 4), st.floats(-10, 10))
def test_scale_and_offset_of_a_dimension_do_not_matter(table, column, scale, offset):
    """Up to EPSILON, so for values, and sums over dimensions, that differ by much more than it."""
    table = np.round(np.array(table), 1)
    other = table.copy()
    other[:, column] = scale * other[:, column] + offset
    groups = ["a", "a", "a", "b", "b", "b"]
    before = advantages(table, groups)
    assume(before.std(ddof=1) > 0.995)
    np.testing.assert_allclose(advantages(other, groups), before, atol=0.02)


@given(st.permutations(range(8)))
def test_the_order_of_clips_does_not_matter(order):
    rng = np.random.default_rng(0)
    table, groups = rng.uniform(1, 5, (8, 3)), np.array([0, 0, 0, 1, 1, 2, 2, 2])
    np.testing.assert_allclose(
        advantages(table[list(order)], groups[list(order)]),
        advantages(table, groups)[list(order)],
        atol=1e-12,
    )


def test_groups_may_be_arrays_tensors_or_texts():
    table = np.random.default_rng(0).uniform(1, 5, (4, 3))
    expected = advantages(table, [0, 0, 1, 1]).tolist()
    for groups in (
        np.array([0, 0, 1, 1]),
        torch.tensor([0, 0, 1, 1]),
        ["a", "a", "b", "b"],
        np.array(list("aabb")),
    ):
        assert advantages(torch.tensor(table), groups).tolist() == expected


@pytest.mark.parametrize(
    ("values", "groups", "complaint"),
    [
        ([[1, 2, 3]], ["a", "b"], "n groups"),
        ([[1, 2]], ["a"], "n, 3"),
        ([1, 2, 3], ["a"], "n, 3"),
        ([[1, 2, float("inf")]], ["a"], "finite"),
        ([[1, 2, 3]] * 2, list(torch.tensor([1, 1])), "Tensor"),
        ([[1, 2, 3]], [None], "NoneType"),
    ],
)
def test_advantages_refuse_wrong_input(values, groups, complaint):
    with pytest.raises(ConfigError, match=complaint):
        advantages(values, groups)
