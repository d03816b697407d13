"""Ranking the candidates of one prompt."""

import json

import numpy as np
import pytest
from fake_model import spread
from hypothesis import given
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError, VideoError
from qsave_reward.ranking import Ranking, rank_cards
from qsave_reward.types import DIMENSIONS, DimensionScore, Provenance, VideoScore

BAD = VideoError("expected a video", code="no_video")


def card(*means):
    return VideoScore(dict(zip(DIMENSIONS, map(spread, means), strict=True)), Provenance("m", "0", "1"))


def test_a_group_by_hand():
    cards = [card(2, 3, 4), BAD, card(4, 4, 4.5), card(3, 4, 5), BAD]
    found = rank_cards(cards, tie_margin=0.25)
    assert found == Ranking(
        order=(2, 3, 0),
        values=(3.0, None, pytest.approx(12.5 / 3), 4.0, None),
        winner=2,
        margins=(pytest.approx(0.5 / 3), 1.0),
        tied=(3,),
        failed=(1, 4),
    )
    assert rank_cards(cards, tie_margin=0.1).tied == ()
    assert json.loads(json.dumps(found.to_dict()))["margins"] == list(found.margins)
    assert list(found.to_dict()) == ["order", "values", "winner", "margins", "tied", "failed"]


def test_equal_values_keep_the_order_they_came_in_and_tie():
    found = rank_cards([card(3, 3, 3), card(2, 3, 4), card(4, 2, 3), card(1, 1, 1)])
    assert (found.order, found.winner, found.tied, found.margins) == ((0, 1, 2, 3), 0, (1, 2), (0, 0, 2))


def test_nobody_wins_where_nobody_was_scored():
    assert rank_cards([BAD, BAD]) == Ranking((), (None, None), None, (), (), (0, 1))
    assert rank_cards([]) == Ranking((), (), None, (), (), ())


def test_weights_decide_and_a_dimension_without_one_counts_nothing():
    cards = [card(5, 1, 1), card(1, 3, 4)]
    assert rank_cards(cards).winner == 1
    assert rank_cards(cards, weights={"visual_quality": 3, "dynamic_quality": 1}).values == (4.0, 1.5)
    assert rank_cards(cards, weights={"text_alignment": 0.001}).values == (1.0, 4.0)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"weights": {"beauty": 1.0}}, "'beauty'"),
        ({"weights": {}}, "not all of them 0"),
        ({"weights": dict.fromkeys(DIMENSIONS, 0.0)}, "not all of them 0"),
        ({"weights": {"visual_quality": -1.0, "dynamic_quality": 2.0}}, "at least 0"),
        ({"weights": {"visual_quality": float("nan")}}, "at least 0"),
        ({"weights": {"visual_quality": float("inf")}}, "at least 0"),
        ({"weights": dict.fromkeys(DIMENSIONS, 1e308)}, "at least 0"),
        ({"tie_margin": -0.1}, "tie margin of at least 0"),
        ({"tie_margin": float("nan")}, "tie margin of at least 0"),
    ],
)
def test_wrong_options_are_refused(options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        rank_cards([card(3, 3, 3)], **options)


def test_a_score_that_is_no_number_is_never_ranked():
    broken = DimensionScore(mean=float("nan"), std=0.0, probs=(0.2,) * 5)
    with pytest.raises(ConfigError, match="finite numbers, got nan from m"):
        rank_cards([card(3, 3, 3), VideoScore(dict.fromkeys(DIMENSIONS, broken), Provenance("m", "0", "1"))])


means = st.sampled_from([1.0, 1.5, 2.25, 3.0, 4.75])
cards = st.lists(st.none() | st.tuples(means, means, means), max_size=7)
weights = st.none() | st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, 7.0])] * 3).filter(any)


@given(cards, weights, st.sampled_from([0.0, 0.25, 1.0]))
def test_it_is_what_sorting_by_the_weighted_mean_gives(rows, share, margin):
    named = None if share is None else dict(zip(DIMENSIONS, share, strict=True))
    made = [BAD if row is None else card(*row) for row in rows]
    found = rank_cards(made, weights=named, tie_margin=margin)
    expected = [None if row is None else np.average(row, weights=share) for row in rows]
    scored = [i for i, value in enumerate(expected) if value is not None]
    for value, wanted in zip(found.values, expected, strict=True):
        assert (value is None) == (wanted is None) and (wanted is None or value == pytest.approx(wanted))
    # Sums in another order may differ in the last bit, so the order is that of the values themselves.
    assert list(found.order) == sorted(scored, key=lambda i: (-found.values[i], i))
    assert sorted([*found.order, *found.failed]) == list(range(len(rows)))
    assert len(found.margins) == max(0, len(scored) - 1) and min(found.margins, default=0) >= 0
    if scored:
        best = max(found.values[i] for i in scored)
        assert found.winner == min(i for i in scored if found.values[i] == best)
        near = {i for i in scored if best - found.values[i] <= margin}
        assert set(found.tied) == near - {found.winner} and len(found.tied) == len(near) - 1


@given(cards, st.integers(0, 6))
def test_a_failure_changes_nothing_for_the_others(rows, place):
    made = [BAD if row is None else card(*row) for row in rows]
    with_one = [*made[:place], BAD, *made[place:]]
    alone, together = rank_cards(made), rank_cards(with_one)
    assert [with_one[i] for i in together.order] == [made[i] for i in alone.order]
    assert together.margins == alone.margins and len(together.failed) == len(alone.failed) + 1
