"""Each grader against independent computation, and its promises as properties."""

import math

import pytest
import scipy.stats
from grading_cases import BLUR, DYNAMIC, JUMP, TEXT, VISUAL, by_dimension, defects, levels, opinions, report
from hypothesis import given
from hypothesis import strategies as st

from qsave_reward.grading import (
    MINIMUM,
    grade_accuracy,
    grade_agreement,
    grade_attribution,
    grade_ranking,
)
from qsave_reward.types import Defect


@pytest.mark.parametrize("distance", [0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0])
def test_accuracy_is_a_bell_and_a_line(distance):
    bell = scipy.stats.norm(scale=0.5)
    expected = 0.75 * bell.pdf(distance) / bell.pdf(0) + 0.25 * (1 - distance / 4)
    assert grade_accuracy(report((5, 1, 3)), {VISUAL: 5.0 - distance}) == pytest.approx(expected)


def test_accuracy_is_the_mean_over_rated_dimensions_only():
    wrong = report((1, 5, 5))
    assert grade_accuracy(wrong, {VISUAL: 5.0}) == pytest.approx(0.0, abs=1e-9)
    assert grade_accuracy(wrong, {VISUAL: 5.0, TEXT: 5.0}) == pytest.approx(0.5)
    assert grade_accuracy(wrong, {DYNAMIC: 5.0, TEXT: 5.0}) == 1.0
    assert grade_accuracy(wrong, {}) is None
    assert grade_accuracy(None, {}) is None


@given(st.floats(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_a_closer_level_earns_more_by_a_slope_that_never_vanishes(mos, first, second):
    near, far = sorted((first, second), key=lambda level: abs(level - mos))
    grades = [grade_accuracy(report((level, 1, 1)), {VISUAL: mos}) for level in (near, far)]
    assert all(0 <= value <= 1 for value in grades)
    assert grades[0] - grades[1] >= (abs(far - mos) - abs(near - mos)) / 16 - 1e-12


def fidelity(level, mean, variances, truth):
    p = scipy.stats.norm.cdf((level - mean) / math.sqrt(sum(variances) + 1 / 6))
    g = 1.0 if truth > 0 else 0.0 if truth < 0 else 0.5
    return math.sqrt(p * g) + math.sqrt((1 - p) * (1 - g))


def test_ranking_is_the_fidelity_under_thurstones_model():
    # Clip a was given 4 and 2 (mean 3, variance 1), clip b 5 and 5, and one answer that could not be read.
    written = [report((4, 1, 1)), report((2, 1, 1)), report((5, 1, 1)), report((5, 1, 1)), None]
    for a, b in [(4.5, 2.0), (2.0, 4.5), (3.0, 3.0), (3.01, 3.0)]:
        mos = [{VISUAL: a}] * 2 + [{VISUAL: b}] * 3
        expected = [fidelity(level, 5, (1, 0), a - b) for level in (4, 2)]
        expected += [fidelity(5, 3, (0, 1), b - a)] * 2 + [MINIMUM]
        assert grade_ranking(written, mos, groups="aabbb") == pytest.approx(expected)


def test_ranking_is_averaged_over_clips_and_dimensions():
    written = [report((4, 2, 3)), report((3, 2, 3)), report((1, 5, 3))]
    mos = [by_dimension(4.0, 3.0, 2.0), {VISUAL: 3.0}, {VISUAL: 2.0, DYNAMIC: 1.0}]
    visual = [fidelity(4, 3, (0, 0), 1), fidelity(4, 1, (0, 0), 2)]
    expected = (sum(visual) / 2 + fidelity(2, 5, (0, 0), 2)) / 2  # nobody else is rated in the third
    assert grade_ranking(written, mos, groups=[7, 8, 9])[0] == pytest.approx(expected)


def test_ranking_without_anything_to_compare_is_not_a_number():
    one, other = {VISUAL: 3.0}, {DYNAMIC: 3.0}
    assert grade_ranking([report(), None], [one, one], groups="aa") == [None, None]
    assert grade_ranking([report(), report()], [one, other], groups="ab") == [None, None]
    assert grade_ranking([report(), report()], [one, {}], groups="ab") == [None, None]
    # The other clip's answers are all lost: clip a has nothing to be compared with, clip b has.
    assert grade_ranking([report(), None], [one, one], groups="ab") == [None, MINIMUM]
    assert grade_ranking([], [], groups=[]) == []


@given(st.lists(st.tuples(levels, opinions), min_size=2, max_size=5), st.integers(-50, 50))
def test_ranking_only_sees_differences(clips, shift):
    mos = [by_dimension(*opinion) for _, opinion in clips]
    plain = grade_ranking([report(given) for given, _ in clips], mos, groups=range(len(clips)))
    moved = [report([level + shift for level in given]) for given, _ in clips]
    assert grade_ranking(moved, mos, groups=range(len(clips))) == pytest.approx(plain)
    assert all(0 <= value <= 1 for value in plain)


@given(st.integers(1, 4), st.sampled_from([-1.0, 1.0]))
def test_the_better_clip_should_be_rated_higher(level, sign):
    def earned(own):
        written = [report((own, 3, 3)), report((3, 3, 3))]
        return grade_ranking(written, [{VISUAL: 3.0 + sign}, {VISUAL: 3.0}], groups="ab")[0]

    assert sign * (earned(level + 1) - earned(level)) > 0


@pytest.mark.parametrize(
    ("found", "real", "expected"),
    [
        ([], [], 1.0),
        ([BLUR, JUMP], [BLUR, JUMP], 1.0),
        ([], [BLUR], 2 / 3),  # two dimensions of three are right about having no defect
        ([JUMP], [BLUR], 1 / 3),
        ([Defect(VISUAL, "noise", 0.55, 0.0, 1.0)], [BLUR], 2 / 3),
        ([Defect(DYNAMIC, "blur", 0.55, 0.0, 1.0)], [BLUR], 1 / 3),
        ([Defect(VISUAL, "blur", 0.25, 0.0, 1.0)], [BLUR], 1.0),  # severity is not compared
        ([Defect(VISUAL, "blur", 0.55)], [BLUR], (0.75 + 2) / 3),  # IoU 1/2
        ([Defect(VISUAL, "blur", 0.55, 1.0, 2.0)], [BLUR], (0.5 + 2) / 3),
        ([Defect(VISUAL, "blur", 0.55, 0.5, 1.5), BLUR], [BLUR], ((1 + 2 / 3) / 2 + 2) / 3),  # united
        ([BLUR, Defect(VISUAL, "noise", 0.5)], [BLUR], (2 / 3 + 2) / 3),
    ],
)
def test_attribution_by_hand(found, real, expected):
    assert grade_attribution(report(defects=found), real, duration=2.0) == pytest.approx(expected)
    assert grade_attribution(report(defects=real), found, duration=2.0) == pytest.approx(expected)


@given(defects(), defects(), st.floats(0.1, 5))
def test_attribution_is_bounded_and_best_for_the_truth(found, real, duration):
    value = grade_attribution(report(defects=found), real, duration=duration)
    assert 0 <= value <= 1 + 1e-12
    assert grade_attribution(report(defects=real), real, duration=duration) == pytest.approx(1.0)
    named, there = ({(d.dimension, d.label) for d in side} for side in (found, real))
    assert (value >= 0.5) or named != there


def test_attribution_without_known_defects_is_not_a_number():
    assert grade_attribution(report(), None, duration=2.0) is None
    assert grade_attribution(None, None, duration=2.0) is None
    assert grade_attribution(None, [], duration=2.0) == MINIMUM


@pytest.mark.parametrize(
    ("severities", "free"),
    [
        ([], {4, 5}),
        ([0.25], {3, 4, 5}),
        ([0.55], {2, 3, 4}),
        ([0.85], {1, 2, 3}),
        ([0.25, 0.25], {2, 3, 4}),
        ([0.55, 0.25], {1, 2, 3}),
        ([0.85, 0.85], {1, 2, 3}),
    ],
)
def test_agreement_is_free_in_a_band_of_levels(severities, free):
    named = [Defect(VISUAL, f"fault {'abc'[i]}", value) for i, value in enumerate(severities)]
    grades = {level: 3 * grade_agreement(report((level, 5, 5), named)) - 2 for level in range(1, 6)}
    assert {level for level, value in grades.items() if value > 1 - 1e-9} == free
    for level, value in grades.items():
        gap = abs(level - (5 - min(3.5 * sum(severities), 3)))
        assert value == pytest.approx(min(1, 1 - (gap - 1.25) / 2.75))


@given(levels, defects())
def test_agreement_is_bounded(given_levels, named):
    assert 0 <= grade_agreement(report(given_levels, named)) <= 1


def test_reasons_for_nothing_and_a_bad_score_disagree_fully():
    assert grade_agreement(report((1, 1, 1))) == 0.0
