"""`recipes/reward/reprompt.py`: other prompts of the same pixels, and what is wrong with them."""

import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))
from reprompt import reprompt
from spoken_facts import prompt_labels, shown_groups

from qsave_reward.types import DIMENSIONS
from qsave_reward.world import world_plan
from qsave_reward.world.phrasing import in_grammar
from qsave_reward.world.raters import latent_quality
from qsave_reward.world.scene import split_of
from qsave_reward.world.stream import plan_record, render_plan


def many(number=400):
    for index in range(number):
        plan = world_plan("train", index)
        yield plan, reprompt(plan, np.random.default_rng(index))


def differences(meant, shown):
    """What a clip of one scene does wrong for a prompt of another, told from the two alone."""
    found = Counter()
    if meant.relation and len(shown.groups) == len(meant.groups):
        found["wrong relation"] += meant.relation != shown.relation
    if len(meant.groups) == len(shown.groups) + 1:
        rest = [
            g for g in meant.groups if (g.shape, g.color) not in {(s.shape, s.color) for s in shown.groups}
        ]
        found["missing object"] += 1
        assert len(rest) == 1
        return +found
    for asked, seen in zip(meant.groups, shown.groups, strict=True):
        for name in ("color", "shape", "count", "motion"):
            found[f"wrong {name}"] += getattr(asked, name) != getattr(seen, name)
    return +found


def test_what_is_wrong_is_what_differs_between_the_prompt_and_the_clip():
    met, same = Counter(), 0
    for plan, other in many():
        assert reprompt(plan, np.random.default_rng(int(plan.name.split("/")[-1]))).prompt == other.prompt
        if other is plan:
            same += 1
            continue
        wrong = [defect for defect in other.defects if defect.dimension == DIMENSIONS[2]]
        assert Counter(defect.label for defect in wrong) == differences(other.scene, plan.shown)
        assert [d for d in other.defects if d not in wrong] == [
            d for d in plan.defects if d.dimension != DIMENSIONS[2]
        ]
        assert other.latent == latent_quality(other.defects, plan.config.num_frames / plan.config.fps)
        assert in_grammar(other.prompt) and split_of(other.scene.groups) == "train"
        for name in DIMENSIONS[:2]:
            assert other.latent[name] == plan.latent[name]
            assert other.opinion.ratings[name] == plan.opinion.ratings[name]
        met.update([defect.label for defect in wrong] or ["right"])
    assert 0 < same < 40  # what shows nothing keeps its prompt
    assert len(met) == 7 and min(met.values()) > 10 and 0.3 < met["right"] / 400 < 0.5


def test_raters_judge_the_new_prompt():
    pairs = [(o.latent["text_alignment"], o.opinion.mos["text_alignment"]) for _, o in many()]
    good, bad = ([mos for true, mos in pairs if (true > 4.5) == side] for side in (True, False))
    assert np.mean(good) > np.mean(bad) + 1.5
    record = plan_record(next(other for _, other in many(3)))
    assert set(record.mos) == set(DIMENSIONS)


def test_pixels_are_the_same():
    seen = 0
    for plan, other in many(12):
        seen += other.prompt != plan.prompt
        assert np.array_equal(render_plan(plan).frames, render_plan(other).frames)
    assert seen > 8


def test_words_of_the_new_prompt_say_what_the_clip_shows():
    for _, other in many(100):
        labels = prompt_labels(other, other.prompt)
        counts = [label for kind, _, label in labels if kind == "count"]
        assert counts == [there.count if there else 0 for there in shown_groups(other)]


def test_prompts_of_another_split_are_not_used():
    plan = world_plan("train", 3)
    other = reprompt(replace(plan, name=plan.name.replace("train", "test")), np.random.default_rng(0))
    assert split_of(other.scene.groups) == "test" or other.prompt == plan.prompt


@pytest.mark.parametrize("index", [3, 5])
def test_the_plan_itself_is_left_as_it_is(index):
    plan = world_plan("train", index)
    before = asdict(plan)
    reprompt(plan, np.random.default_rng(1))
    assert asdict(plan) == before
