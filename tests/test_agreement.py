"""Rows of the results table: against independent computation, and null with a reason where nothing exists."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from qsave_reward.agreement import (
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
from qsave_reward.types import Defect

MAKERS = ["a", "b", "c", "d"]


@pytest.fixture(autouse=True)
def few_resamples() -> None:
    """All that users get."""


def items(n: int = 80, *, prompts: int = 20, seed: int = 0):
    """Predicted, true, generators, prompts: generators differ, and predictions know a part of the truth."""
    rng = np.random.default_rng(seed)
    makers = [MAKERS[i % 4] for i in range(n)]
    truth = np.clip(2 + 0.5 * (np.arange(n) % 4) + rng.normal(0, 0.8, n), 1, 5)
    predicted = np.clip(1.5 + 0.5 * truth + rng.normal(0, 0.3, n), 1, 5)
    return predicted, truth, makers, [f"prompt {i // 4 % prompts}" for i in range(n)]


def test_instance_row() -> None:
    predicted, truth, _, _ = items()
    row = agreement_row(predicted, truth)
    assert row["srcc"] == pytest.approx(scipy.stats.spearmanr(predicted, truth).statistic)
    assert row["main_score"] == pytest.approx((row["srcc"] + row["plcc"]) / 2)
    assert row["plcc_logistic"] >= row["plcc"] - 1e-6
    assert set(row["intervals"]) == {"plcc", "krcc", "rmse", "main_score"}
    for name, (low, high) in {**row["intervals"], "srcc": row["ci95"]}.items():
        assert low <= row[name] <= high and high - low < 0.5
    assert (row["n"], row["reason"]) == (80, None)


def test_generator_level_row_is_the_agreement_of_the_means() -> None:
    predicted, truth, makers, _ = items()
    makers[5] = None
    row = generator_level_row(predicted, truth, generators=makers)
    kept = np.array([maker is not None for maker in makers])
    names = np.array(makers, dtype=object)
    x = [predicted[kept & (names == maker)].mean() for maker in MAKERS]
    y = [truth[kept & (names == maker)].mean() for maker in MAKERS]
    assert row["plcc"] == pytest.approx(scipy.stats.pearsonr(x, y).statistic)
    assert row["krcc"] == pytest.approx(scipy.stats.kendalltau(x, y).statistic)
    assert row["rmse"] == pytest.approx(np.sqrt(np.mean((np.array(x) - y) ** 2)))
    assert row["main_score"] == pytest.approx((row["srcc"] + row["plcc"]) / 2)
    assert row["n"] == 4 and row["ci95"] is None and "at least 5 generators, got 4" in row["reason"]
    assert row["generators"]["b"] == {
        "n": 19,
        "predicted": pytest.approx(x[1]),
        "truth": pytest.approx(y[1]),
    }
    more = generator_level_row(predicted, truth, generators=[*"vwxyz"] * 16)
    assert more["ci95"][0] <= more["srcc"] <= more["ci95"][1] and more["reason"] is None


def test_within_generator_row_is_the_mean_inside() -> None:
    predicted, truth, makers, _ = items()
    makers = [*makers[:-3], "two", "two", "lone"]
    row = within_generator_row(predicted, truth, generators=makers)
    names = np.array(makers)
    inside = [scipy.stats.spearmanr(predicted[names == m], truth[names == m]).statistic for m in MAKERS]
    assert row["srcc"] == pytest.approx(np.mean(inside))
    assert (row["n"], row["n_left_out"], row["reason"]) == (4, 2, None)
    assert row["generators"]["c"] == {"n": 19, "srcc": pytest.approx(inside[2])}
    assert row["ci95"][0] <= row["srcc"] <= row["ci95"][1]


def test_a_scorer_that_only_knows_generators_is_found_out() -> None:
    _, truth, makers, _ = items(200)
    rng = np.random.default_rng(1)
    predicted = np.array([MAKERS.index(maker) for maker in makers]) + rng.uniform(0, 0.5, 200)
    assert agreement_row(predicted, truth)["srcc"] > 0.4
    assert generator_level_row(predicted, truth, generators=makers)["srcc"] == 1.0
    assert abs(within_generator_row(predicted, truth, generators=makers)["srcc"]) < 0.2


@pytest.mark.parametrize(
    ("makers", "level", "inside"),
    [
        ([None] * 6, "no item names", "no item names"),
        (["a"] * 6, "at least 3 generators, got 1", None),
        (["a", "a", "a", "b", "b", "b"], "at least 3 generators, got 2", None),
        (list("abcdef"), None, "no generator has 3 items"),
    ],
)
def test_undefined_rows_of_generators(makers, level, inside) -> None:
    predicted, truth = np.arange(6.0), np.array([1.0, 3, 2, 4, 6, 5])
    rows = [
        generator_level_row(predicted, truth, generators=makers),
        within_generator_row(predicted, truth, generators=makers),
    ]
    for row, reason in zip(rows, (level, inside), strict=True):
        assert (row["srcc"] is None) is (reason is not None)
        assert row["reason"] is None if reason is None else reason in row["reason"]
    json.dumps(rows, allow_nan=False)


def test_same_prompt_pairs_are_all_of_them_and_no_prompt_is_on_both_sides() -> None:
    _, _, _, prompts = items(80, prompts=20)
    plan = plan_pairs(prompts)
    expected = {pair for pair in combinations(range(80), 2) if prompts[pair[0]] == prompts[pair[1]]}
    assert plan.kind == "same prompt"
    assert {tuple(pair) for pair in np.concatenate([plan.fit, plan.test]).tolist()} == expected
    sides = [{prompts[i] for i in part.ravel()} for part in (plan.fit, plan.test)]
    assert not sides[0] & sides[1] and len(sides[0]) == len(sides[1]) == 10


def test_random_pairs_where_prompts_hardly_repeat() -> None:
    prompts = [f"prompt {i}" for i in range(100)] + ["prompt 0"]
    plan, again = plan_pairs(prompts), plan_pairs(prompts)
    assert plan.kind == "random" and (plan.test == again.test).all() and (plan.fit == again.fit).all()
    assert len(plan.test) > 200 and (plan.test[:, 0] != plan.test[:, 1]).all()
    assert len(np.unique(np.sort(plan.test, axis=1), axis=0)) == len(plan.test)
    sides = [{prompts[i] for i in part.ravel()} for part in (plan.fit, plan.test)]
    assert not sides[0] & sides[1]


def test_a_prompt_with_very_many_clips_does_not_make_all_their_pairs() -> None:
    plan = plan_pairs(["one"] * 3000 + ["two"] * 3000)
    assert plan.kind == "same prompt" and 10000 < len(plan.test) <= 30000
    assert {int(i) // 3000 for i in plan.test.ravel()} in ({0}, {1})


def test_pairwise_row_fits_the_margin_on_the_other_half() -> None:
    predicted, truth, _, prompts = items(80)
    truth = np.rint(truth)
    plan = plan_pairs(prompts)
    row = pairwise_row(predicted, truth, plan=plan)
    one, other = plan.test.T
    differ = truth[one] != truth[other]
    right = np.sign(predicted[one] - predicted[other]) == np.sign(truth[one] - truth[other])
    assert row["without_ties"] == pytest.approx(right[differ].mean())
    called = np.where(np.abs(predicted[one] - predicted[other]) <= row["tie_margin"], 0, 1)
    called = called * np.sign(predicted[one] - predicted[other])
    assert row["with_ties"] == pytest.approx(np.mean(called == np.sign(truth[one] - truth[other])))
    assert (row["n_pairs"], row["n_fit_pairs"], row["n_tied"]) == (60, 60, int((~differ).sum()))
    assert row["ci95"][0] <= row["without_ties"] <= row["ci95"][1]
    # What is reported does not move the margin.
    changed = truth.copy()
    changed[np.unique(plan.test)] = 6 - changed[np.unique(plan.test)]
    assert pairwise_row(predicted, changed, plan=plan)["tie_margin"] == row["tie_margin"]


def test_pairwise_rows_without_pairs_or_without_a_half_to_fit() -> None:
    empty = np.zeros(0)
    row = pairwise_row(empty, empty, plan=plan_pairs([]))
    assert (row["without_ties"], row["with_ties"], row["ci95"], row["tie_margin"]) == (None,) * 4
    assert "at least one pair" in row["reason"]
    row = pairwise_row(np.arange(4.0), np.arange(4.0), plan=plan_pairs(["x"] * 4))
    assert row["without_ties"] == 1.0 and row["with_ties"] is None and row["ci95"] is None
    assert "tie margin needs" in row["reason"] and row["n_fit_pairs"] == 0


@pytest.mark.parametrize("n", [1, 2, 4])
def test_pairs_of_a_handful_of_prompts_have_no_interval(n) -> None:
    # Each pair is ordered right, which a bootstrap would call certain.
    prompts = [f"prompt {k}" for k in range(2 * n) for _ in range(2)]
    scores = np.arange(4.0 * n)
    row = pairwise_row(scores, scores, plan=plan_pairs(prompts))
    assert (row["without_ties"], row["n_pairs"], row["ci95"]) == (1.0, n, None)
    assert row["reason"] == f"an interval needs at least 5 prompts with pairs, got {n}"
    prompts = [f"prompt {k}" for k in range(10) for _ in range(2)]
    assert pairwise_row(np.arange(20.0), np.arange(20.0), plan=plan_pairs(prompts))["ci95"] == [1.0, 1.0]


def test_a_spread_and_an_error_of_two_items_are_not_correlated() -> None:
    two = calibration_row(np.array([2.0, 3.0]), np.array([0.5, 1.0]), truth=np.array([2.1, 3.5]))
    assert two["spread_error_srcc"] is None and "at least 3 items, got 2" in two["reason"]
    assert two["error_spread_ratio"] > 0


def test_the_generator_mean_never_sees_the_item_nor_its_prompt() -> None:
    _, truth, makers, prompts = items(80)
    plan = plan_pairs(prompts)
    row = generator_mean_row(truth, generators=makers, plan=plan)
    names = np.array(makers)
    expected = np.array(
        [truth[(names == makers[i]) & (plan.fitted != plan.fitted[i])].mean() for i in range(80)]
    )
    assert row["srcc"] == pytest.approx(scipy.stats.spearmanr(expected, truth).statistic)
    assert row["n"] == 80 and 0.5 < row["pairwise"]["without_ties"] < 1
    # With generators that do not differ it is worth nothing; a mean without only the item gives -1 here.
    same = generator_mean_row(truth, generators=["a"] * 80, plan=plan)
    assert abs(same["srcc"]) < 0.3
    alone = generator_mean_row(truth, generators=[*makers[:-1], "alone"], plan=plan)
    assert alone["n"] == 79
    nothing = generator_mean_row(truth, generators=[None] * 80, plan=plan)
    assert nothing["srcc"] is None and "no item names" in nothing["reason"]


def test_chance_levels() -> None:
    _, truth, makers, prompts = items(80)
    plan = plan_pairs(prompts)
    row = random_row(truth, generators=makers, plan=plan)
    assert abs(row["srcc"]) < 0.05 and row["ci95"][0] < -0.15 < 0.15 < row["ci95"][1]
    low, high = row["generator_level"]["ci95"]
    assert low < -0.7 and high > 0.7
    assert row["pairwise"]["without_ties"] == pytest.approx(0.5, abs=0.03)
    flat = constant_row(truth, plan=plan)
    assert flat["srcc"] is None and flat["rmse"] == pytest.approx(truth.std())
    assert flat["pairwise"]["without_ties"] == 0.5


def test_calibration_row() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.2, 1.0, 43)
    mean, truth = rng.uniform(2, 4, 43), rng.uniform(1, 5, 43)
    row = calibration_row(mean, spread, truth=truth)
    assert row["within_1_std"] == pytest.approx(np.mean(np.abs(truth - mean) <= spread))
    assert sum(part["n"] for part in row["bins"]) == 43 and len(row["bins"]) == 8
    assert [part["spread"] for part in row["bins"]] == sorted(part["spread"] for part in row["bins"])
    total = sum(part["n"] * part["error"] ** 2 for part in row["bins"])
    assert total == pytest.approx(np.sum((truth - mean) ** 2))
    nothing = calibration_row(mean[:0], spread[:0], truth=truth[:0])
    assert (nothing["within_1_std"], nothing["bins"], nothing["n"]) == (None, [], 0) and nothing["reason"]


def test_attribution_row_has_an_interval_of_its_f1() -> None:
    blur, jump = Defect("visual_quality", "blur", 0.5), Defect("dynamic_quality", "jump", 0.5)
    truth = [[blur], [jump], [blur, jump], []] * 10
    named = [[blur], [blur], [blur], [jump]] * 10
    row = attribution_row(named, truth, durations=[2.0] * 40)
    assert row["f1"] == pytest.approx(2 * 20 / (40 + 40)) and row["n_true"] == 40
    assert row["ci95"][0] < row["f1"] < row["ci95"][1]
    assert attribution_row([[]], [[]], durations=[2.0])["ci95"] is None
