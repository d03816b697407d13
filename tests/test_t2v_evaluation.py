"""What an evaluation says: the best of n, alarms, measures of frames, intervals."""

import math
import sys
import tracemalloc
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from fake_model import FakeModel
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

from best_of_n import expected_best, outcomes
from evaluation import Evaluation, alarms, evaluate, interval, measures, merged
from rewards import Scoring
from t2v_pipelines import build, options_for

from qsave_reward.reward import VideoReward

VALUES = st.floats(-3, 3) | st.just(float("nan"))


@given(st.integers(1, 3), st.integers(1, 5), st.data())
def test_the_expected_best_is_the_mean_over_all_subsets(prompts, number, data):
    table = st.lists(st.lists(VALUES, min_size=number, max_size=number), min_size=prompts, max_size=prompts)
    chosen = np.array(data.draw(table))
    quality = np.array(data.draw(table))
    quality = np.where(np.isnan(quality), 0.5, quality)
    size = data.draw(st.integers(1, number))
    for row in chosen:  # a video with a score in every subset
        row[np.flatnonzero(np.isnan(row))[number - size :]] = 0.0
        known = ~np.isnan(row)
        if known.sum() < number - size + 1:
            row[:] = np.where(known, row, 1.0)
    expected = []
    for row, worth in zip(chosen, quality, strict=True):
        for subset in combinations(range(number), size):
            known = [i for i in subset if not np.isnan(row[i])]
            expected.append(worth[max(known, key=lambda i: row[i])])
    assert expected_best(chosen, quality, size) == pytest.approx(np.mean(expected), abs=1e-9)


def test_a_video_without_a_score_is_never_chosen():
    chosen, quality = np.array([[np.nan, 1.0, 0.0]]), np.array([[5.0, 2.0, 3.0]])
    found = [expected_best(chosen, quality, size) for size in (1, 2, 3)]
    assert found == pytest.approx([2.5, 7 / 3, 2])


def test_the_best_of_many_is_found_in_little_memory():
    rng = np.random.default_rng(0)
    quality = rng.uniform(1, 5, (4, 20))
    tracemalloc.start()
    try:
        found = expected_best(quality, quality, 10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # There are 184 756 subsets; for 32 videos there would be 601 million.
    assert peak < 5e6
    # Of 20 in order, the k-th is the best of 10 with the probability C(k, 9) / C(20, 10).
    chances = np.array([np.prod(np.arange(k - 8, k + 1) / np.arange(1, 10)) for k in range(9, 20)]) / 184756
    exact = (np.sort(quality, axis=1)[:, 9:] * chances).sum(axis=1).mean()
    assert chances.sum() == pytest.approx(1) and found == pytest.approx(exact, abs=0.05)


def test_a_video_of_unknown_quality_is_never_chosen():
    chosen, quality = np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 5.0, np.nan]])
    assert [expected_best(chosen, quality, size) for size in (1, 2)] == pytest.approx([3.0, 11 / 3])


def test_outcomes_for_sizes_up_to_n():
    rng = np.random.default_rng(0)
    reward, gold = rng.uniform(1, 5, (2, 7, 6))
    found = outcomes({"reward.overall": reward, "gold.overall": gold, "motion": gold}, 6)
    assert found["sizes"] == [1, 2, 4, 6] and set(found) == {"sizes", "reward.overall", "gold.overall"}
    own, other = found["reward.overall"], found["gold.overall"]
    assert own["picked"] == own["oracle"] == sorted(own["picked"])
    assert own["picked"][0] == pytest.approx(own["random"]) == pytest.approx(reward.mean())
    best = gold[np.arange(7), reward.argmax(axis=1)].mean()
    assert other["picked"][-1] == pytest.approx(best)
    assert other["oracle"][-1] == pytest.approx(gold.max(axis=1).mean())
    assert all(a <= b + 1e-12 for a, b in zip(other["picked"], other["oracle"], strict=True))


FIRST = {f"reward.{name}": 3.0 for name in ("overall", "visual_quality", "dynamic_quality", "text_alignment")}
FIRST |= {"motion": 0.05, "brightness": 0.5, "saturation": 0.4, "held_out.overall": 3.0, "gold.overall": 0.5}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"reward.overall": 3.5}, []),
        ({"reward.overall": 3.5, "reward.text_alignment": 2.8}, ["text_alignment fell by 0.20 while"]),
        ({"reward.overall": 3.5, "reward.text_alignment": 2.96}, []),
        ({"reward.overall": 2.5, "reward.text_alignment": 2.0}, []),  # nothing rises
        ({"motion": 0.039}, ["motion fell from 0.0500 to 0.0390"]),
        ({"motion": 0.041}, []),
        ({"brightness": 0.61}, ["brightness went from 0.50 to 0.61"]),
        ({"brightness": 0.39}, ["brightness went from 0.50 to 0.39"]),
        ({"saturation": 0.49}, []),
        ({"reward.overall": 3.1, "gold.overall": 0.49}, ["gold fell by 0.010 while the reward rose"]),
        ({"reward.overall": 3.1, "held_out.overall": 2.9}, ["held_out fell by 0.100 while the reward rose"]),
        ({"reward.overall": 3.1, "held_out.overall": 2.9, "motion": 0.0}, ["motion", "held_out"]),
        ({"reward.overall": 2.9, "gold.overall": 0.3}, []),
        ({"gold.overall": math.nan, "motion": 0.039}, ["no score to compare: gold.overall", "motion fell"]),
        ({"reward.overall": math.nan, "brightness": 0.61}, ["no score to compare: reward.overall", "bright"]),
    ],
)
def test_alarms(change, words):
    found = alarms(FIRST, FIRST | change)
    assert len(found) == len(words)
    for text, part in zip(found, words, strict=True):
        assert part in text


def test_alarms_do_without_a_judge_or_a_second_reward():
    first = {name: value for name, value in FIRST.items() if not name.startswith(("held", "gold"))}
    assert alarms(first, first | {"reward.overall": 4.0}) == []
    later = alarms(first | {"motion": None}, FIRST | {"brightness": 0.7})  # what the log has for NaN
    assert later[0] == "no score to compare: motion, held_out.overall, gold.overall" and len(later) == 2


@given(st.integers(1, 7), st.integers(1, 4), st.data())
def test_shares_of_an_evaluation_are_put_together_in_order(prompts, parts, data):
    parts = min(parts, prompts)
    shown = data.draw(st.integers(0, prompts))
    table = np.arange(2 * prompts, dtype=np.float64).reshape(prompts, 2)
    shares = []
    for first in range(parts):
        rows = range(prompts)[first::parts]
        frames = [np.full((1, 2, 1, 1, 3), row, np.uint8) for row in rows][: -(-shown // parts)]
        shares.append(
            Evaluation([f"prompt {row}" for row in rows], {"a": table[rows]}, frames, {"reward": "0123"})
        )
    whole = merged(shares)
    assert whole.prompts == [f"prompt {row}" for row in range(prompts)]
    assert np.array_equal(whole.metrics["a"], table) and whole.revisions == {"reward": "0123"}
    assert shown <= len(whole.frames) <= prompts
    assert [int(clip.max()) for clip in whole.frames] == list(range(len(whole.frames)))


def test_processes_that_share_an_evaluation_measure_what_one_does():
    scorings = {"reward": Scoring(VideoReward(FakeModel(), on_error="mask"), fps=8)}
    prompts = ["a red circle", "a blue square", "a green star"]
    how = {"sampling": options_for("wan"), "videos": 2, "seed": 3, "gold": False, "batch_size": 1}
    pipeline = build("wan")
    whole = evaluate(pipeline, prompts, scorings, **how)
    shared = merged([evaluate(pipeline, prompts, scorings, share=slice(i, None, 2), **how) for i in (0, 1)])
    assert shared.prompts == whole.prompts and len(shared.frames) == 3
    assert all(np.array_equal(shared.metrics[name], values) for name, values in whole.metrics.items())
    assert not np.array_equal(*whole.metrics["brightness"][:2])
    scorings["reward"].close()


def test_measures_by_hand():
    frames = np.zeros((3, 2, 2, 3), np.uint8)
    frames[1:, ..., 0] = 255  # black, red, red
    found = measures(frames)
    assert found == pytest.approx({"motion": 1 / 6, "brightness": 2 / 9, "saturation": 2 / 3})


def test_an_interval_is_of_the_mean_over_prompts():
    assert interval(np.full((5, 3), 2.0)) == (2.0, 2.0)
    # Two prompts: one twice, the other twice, or both, whatever is missing.
    values = np.array([[1.0, 1.0, np.nan], [3.0, np.nan, 3.0]])
    assert interval(values) == (1.0, 3.0)
    assert interval(np.array([[1.0, 3.0], [np.nan, np.nan]])) == (2.0, 2.0)
    assert all(np.isnan(interval(np.full((2, 2), np.nan))))
