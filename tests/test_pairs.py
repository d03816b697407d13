"""Pairs by hand and by brute force; the tie margin is the best there is on the pairs it was fitted on."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError
from qsave_reward.metrics import fit_tie_margin, pair_credits, pairwise_accuracy

HALVES = st.integers(2, 10).map(lambda value: value / 2)
ITEMS = st.lists(st.tuples(HALVES, HALVES), min_size=2, max_size=9)


def all_pairs(n: int) -> np.ndarray:
    return np.array(list(combinations(range(n), 2)))


def test_by_hand() -> None:
    predicted, truth = [1.0, 2.0, 2.0, 2.1], [1.0, 2.0, 3.0, 2.0]
    pairs = all_pairs(4)
    # 01 right, 02 right, 03 right, 12 equal predictions, 13 truly tied, 23 wrong.
    assert pair_credits(predicted, truth, pairs=pairs)[[0, 1, 2, 3, 5]].tolist() == [1, 1, 1, 0.5, 0]
    assert np.isnan(pair_credits(predicted, truth, pairs=pairs)[4])
    assert pairwise_accuracy(predicted, truth, pairs=pairs) == pytest.approx(3.5 / 5)
    # At a margin of 0.1 pairs 12, 13 and 23 are called ties, which only 13 is.
    assert pairwise_accuracy(predicted, truth, pairs=pairs, tie_margin=0.1001) == pytest.approx(4 / 6)
    assert pairwise_accuracy(predicted, truth, pairs=pairs, tie_margin=9) == pytest.approx(1 / 6)
    assert fit_tie_margin(predicted, truth, pairs=pairs) == pytest.approx(0.1)


@given(items=ITEMS)
@settings(max_examples=150, deadline=None)
def test_the_fitted_margin_is_the_smallest_of_the_best(items) -> None:
    predicted, truth = zip(*items, strict=True)
    pairs = all_pairs(len(items))
    margin = fit_tie_margin(predicted, truth, pairs=pairs)
    tried = {0.0, *(abs(predicted[i] - predicted[j]) for i, j in pairs)}
    accuracies = {m: pairwise_accuracy(predicted, truth, pairs=pairs, tie_margin=m) for m in tried}
    best = max(accuracies.values())
    assert margin == min(m for m, accuracy in accuracies.items() if accuracy >= best - 1e-12)


@given(items=ITEMS)
@settings(max_examples=100, deadline=None)
def test_the_order_inside_pairs_does_not_matter_and_reversal_mirrors(items) -> None:
    predicted, truth = (np.array(side) for side in zip(*items, strict=True))
    pairs = all_pairs(len(items))
    if len(set(truth)) == 1:
        with pytest.raises(ConfigError, match="different true scores"):
            pairwise_accuracy(predicted, truth, pairs=pairs)
        return
    accuracy = pairwise_accuracy(predicted, truth, pairs=pairs)
    assert pairwise_accuracy(predicted, truth, pairs=pairs[:, ::-1]) == accuracy
    assert pairwise_accuracy(-predicted, truth, pairs=pairs) == pytest.approx(1 - accuracy)
    assert pairwise_accuracy(truth, truth, pairs=pairs) == 1.0
    assert pairwise_accuracy(0 * truth, truth, pairs=pairs) == 0.5


def test_means_of_the_same_answers_are_tied_whatever_their_last_bit() -> None:
    truth = [(0.1 + 0.2) * 10, 3.0]
    assert truth[0] != truth[1]
    assert pairwise_accuracy([1, 1], truth, pairs=[[0, 1]], tie_margin=0) == 1.0


def test_wrong_arguments() -> None:
    for call in (pairwise_accuracy, fit_tie_margin):
        with pytest.raises(ConfigError) as caught:
            call([1, 2], [1, 2], pairs=[])
        assert caught.value.code == "undefined"
        with pytest.raises(ConfigError, match="positions below 2"):
            call([1, 2], [1, 2], pairs=[[0, 2]])
        with pytest.raises(ConfigError, match="finite"):
            call([1, np.nan], [1, 2], pairs=[[0, 1]])
    for margin in (-1.0, np.nan):
        with pytest.raises(ConfigError, match="tie margin"):
            pairwise_accuracy([1, 2], [1, 2], pairs=[[0, 1]], tie_margin=margin)
