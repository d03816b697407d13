"""What visual tokens say of the damage to their object: which ones, when, and how bad, by hand."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qsave_reward.types import LEVELS, Defect
from qsave_reward.world import WorldConfig, world_plan

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))
from object_severity import SEVERITY_KINDS, SOUND_SHARE
from spoken_facts import visual_labels
from token_targets import NOTHING, token_targets

GRIDS = [(4, 4), *[(3, 3)] * 6, (4, 4)]
SIZES = [rows * columns for rows, columns in GRIDS]


def one_object():
    """A clean clip of a lasting object that stands still."""
    plans = (world_plan("train", index, config=WorldConfig(clean=True)) for index in range(2000))
    return next(p for p in plans if [(g.motion, g.count) for g in p.shown.groups] == [("still", 1)])


def said(plan, kind):
    """The level that each chunk's object tokens say: all of a chunk the same, and no other token any."""
    labels = visual_labels(plan, 16, GRIDS)[kind]
    there = token_targets(plan, GRIDS).color != NOTHING
    assert (labels[~there] == NOTHING).all() and there.any()
    chunks = [part[seen] for part, seen in zip(labels.split(SIZES), there.split(SIZES), strict=True)]
    assert all(len(set(chunk.tolist())) == 1 for chunk in chunks)
    return [LEVELS[chunk[0]] for chunk in chunks]


@pytest.mark.parametrize(
    ("severity", "level"),
    # 1 - 0.85 * severity ** 0.85 of the quality is left: 4.32, 2.80, 1.60.
    [(0.15, "good"), (0.6, "fair"), (1.0, "poor")],
)
def test_a_jump_is_told_where_the_object_is_elsewhere(severity, level):
    jump = Defect("dynamic_quality", "jump", severity, 0.75, 1.125)  # frames 6 to 9 of 8 a second
    plan = replace(one_object(), defects=(jump,))
    assert said(plan, "moved") == ["excellent"] * 3 + [level] * 2 + ["excellent"] * 3


@pytest.mark.parametrize(("start", "end"), [(None, None), (0.25, 1.0)])
def test_how_bad_a_distortion_is_does_not_depend_on_how_long_it_lasts(start, end):
    plan = replace(one_object(), defects=(Defect("visual_quality", "shape distortion", 0.5, start, end),))
    # 1 - 0.95 * 0.5 ** 0.85 is left: 2.89. Frame 8, at one second, is still in the span.
    bent = ["fair"] * 8 if start is None else ["excellent"] + ["fair"] * 4 + ["excellent"] * 3
    assert said(plan, "bent") == bent


def test_a_morphing_is_told_as_far_as_it_has_come():
    plan = replace(one_object(), defects=(Defect("dynamic_quality", "morphing", 1.0),))
    # The second frame of a chunk is at x = (2 k + 1) / 16 of the clip; x * x * (3 - 2 x) of the way is gone.
    ways = [((2 * k + 1) / 16) ** 2 * (3 - 2 * (2 * k + 1) / 16) for k in range(8)]
    assert said(plan, "morphed") == [LEVELS[round(4 * (1 - way))] for way in ways]
    assert said(plan, "morphed")[0] == "excellent" and said(plan, "morphed")[-1] == "bad"


def test_few_clips_without_the_damage_are_asked_each_kind_for_itself():
    plans = [world_plan("train", index, config=WorldConfig(clean=True)) for index in range(300)]
    asked = []
    for plan in plans:
        labels = visual_labels(plan, 16, GRIDS)
        told = [labels[kind] for kind in SEVERITY_KINDS]
        assert all(set(one.tolist()) <= {NOTHING, len(LEVELS) - 1} for one in told)
        asked.append([bool((one != NOTHING).any()) for one in told])
    shares = torch.tensor(asked).float().mean(dim=0)
    assert ((shares - SOUND_SHARE).abs() < 0.07).all()
    assert {1, 2} <= {sum(kinds) for kinds in asked}  # not always all together, not always apart
