"""Where the score falls short of its ceiling, by hand."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_model import FakeModel
from scipy.stats import spearmanr
from test_evaluate import clip, data

from qsave_reward.evaluate import evaluate, load_data
from qsave_reward.loading import load_scorer
from qsave_reward.types import DIMENSIONS, Record
from qsave_reward.world import world_plan

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))
import gaps as recipe
from gaps import NONE, SEVERAL, asked, gaps, kind_of


def test_a_gap_by_hand():
    kinds = ["blur"] * 3 + [NONE] * 3 + ["noise"]
    scores = np.array([4.0, 3.0, 4.6, 4.5, 4.7, 4.0, 2.0])
    mos = np.array([2.0, 3.0, 1.0, 4.5, 5.0, 4.75, 1.5])
    truth = np.array([2.1, 2.9, 1.2, 5.0, 5.0, 5.0, 1.4])
    found = {gap.label: gap for gap in gaps(kinds, scores, mos, truth)}
    blur = found["blur"]
    assert blur.n == 3 and blur.bias == pytest.approx(11.6 / 3 - 2)
    assert blur.within == pytest.approx(-1.0)
    # 4.0 ties with one clean clip and is below two, 3.0 is below all, 4.6 below one.
    assert blur.told == pytest.approx((2.5 + 3 + 1) / 9)
    known = np.concatenate([truth[:3], scores[3:]])
    expected = spearmanr(known, mos).statistic - spearmanr(scores, mos).statistic
    assert blur.gain == pytest.approx(expected) and blur.gain > 0
    assert math.isnan(found[NONE].told) and math.isnan(found["noise"].within) and found["noise"].told == 1
    assert [gap.gain for gap in gaps(kinds, scores, mos, truth)] == sorted(
        (gap.gain for gap in found.values()), reverse=True
    )


def test_clips_with_equal_ratings_have_no_order_to_find():
    found = gaps(
        ["blur"] * 3 + [NONE], np.array([1.0, 2, 3, 4]), np.array([2.0, 2, 2, 5]), np.array([2.0, 2, 2, 5])
    )
    assert math.isnan(next(gap for gap in found if gap.label == "blur").within)


def test_each_clip_is_of_one_kind():
    plans = [world_plan("test", index) for index in range(200)]
    kinds = [kind_of(plan, "visual_quality") for plan in plans]
    several = [sum(d.dimension == "visual_quality" for d in plan.defects) > 1 for plan in plans]
    assert [kind == SEVERAL for kind in kinds] == several and any(several)
    clean = [all(d.dimension != "visual_quality" for d in plan.defects) for plan in plans]
    assert [kind == NONE for kind in kinds] == clean and any(clean)


def test_clips_are_told_apart_by_what_their_prompt_asks_for():
    seen = set()
    for index in range(200):
        plan = world_plan("test", index)
        words, kind = plan.prompt.split(), asked(plan)
        assert (kind == "a relation") == ("is" in words) and (kind == "a camera move") == ("camera" in words)
        seen.add(kind)
        if "group" in kind:
            assert int(kind.split()[0]) == len(plan.scene.groups)
    assert len(seen) == 5


def run(*options):
    command = [sys.executable, recipe.__file__, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_prints_a_table_for_each_dimension_of_an_evaluation(tmp_path):
    found = evaluate(load_scorer("tiny", device="cpu"), load_data("world:val", limit=30), attribution_limit=0)
    found.save(tmp_path)
    result = run(tmp_path)
    assert result.returncode == 0
    for dimension in DIMENSIONS:
        plans = [world_plan("val", index) for index in range(30)]
        ceiling = spearmanr(
            [plan.latent[dimension] for plan in plans], [plan.opinion.mos[dimension] for plan in plans]
        ).statistic
        assert f"of the true quality {ceiling:.3f}" in result.stdout
        clean = sum(kind_of(plan, dimension) == NONE for plan in plans)
        assert f"| none | {clean} | " in result.stdout


def test_an_evaluation_of_other_data_is_refused(tmp_path):
    empty = run(tmp_path)
    assert empty.returncode == 1 and empty.stderr.startswith("error: cannot read") and not empty.stdout
    items = [(Record("a.mp4", "a cat", {"visual_quality": 3.0}), clip(100.0))]
    evaluate(FakeModel(), data(items), attribution_limit=0).save(tmp_path)
    other = run(tmp_path)
    assert other.returncode == 1 and "error: expected 'world:SPLIT'" in other.stderr
