"""Defects of the world: they can be seen, stay in their span, grow with their severity, and cost quality."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsave_reward.types import DIMENSIONS, Defect
from qsave_reward.world import LABELS, WorldConfig, degrade, describe, world_plan
from qsave_reward.world.alterations import alter
from qsave_reward.world.defects import draw_span, in_span, showable
from qsave_reward.world.raters import latent_quality
from qsave_reward.world.scene import draw_scene
from qsave_reward.world.stream import render_plan

SMALL = WorldConfig(height=64, width=64)
SHOWN = [(d, label) for d in DIMENSIONS[:2] for label in LABELS[d]]
TIMES = np.arange(16) / 8


def clean_plans(label, number, config=SMALL):
    """Plans of clean clips in which a defect of this label would show."""
    plans = (world_plan("train", index, config=replace(config, clean=True)) for index in itertools.count())
    return list(itertools.islice((plan for plan in plans if showable(label, plan.scene)), number))


def with_defect(plan, dimension, label, severity, span=(None, None)):
    return render_plan(replace(plan, defects=(Defect(dimension, label, severity, *span),)))


def difference(first, second):
    """Mean absolute difference of each frame, [T]."""
    return np.abs(first.frames.astype(float) - second.frames).mean(axis=(1, 2, 3))


@pytest.mark.parametrize(("dimension", "label"), SHOWN)
def test_a_defect_changes_its_span_only(dimension, label):
    rng = np.random.default_rng(0)
    spans = (draw_span(rng, label, 0.6, TIMES) for _ in range(50))
    begin, end = next(span for span in spans if span[0] is not None)
    for plan in clean_plans(label, 3):
        made = with_defect(plan, dimension, label, 0.6, (begin, end))
        changed = difference(made, render_plan(plan)) > 0
        assert changed.any()
        assert not changed[~in_span(made.record.defects[0], made.times)].any()


@pytest.mark.parametrize(("dimension", "label"), SHOWN)
def test_a_defect_grows_with_its_severity(dimension, label):
    grown = []
    for plan in clean_plans(label, 6):
        clean = render_plan(plan)
        row = []
        for severity in (0.15, 0.5, 1.0):
            span = (0.0, round(0.2 + 1.2 * severity, 3)) if label == "freeze" else (None, None)
            row.append(difference(with_defect(plan, dimension, label, severity, span), clean).mean())
        grown.append(row)
    low, middle, high = np.mean(grown, axis=0)
    assert 0 < low < middle < high


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_no_defect_is_invisible(index):
    plan = world_plan("train", index, config=SMALL)
    for defect in plan.defects:
        if defect.dimension == "text_alignment":
            assert describe(plan.shown) != describe(plan.scene)
            changed = difference(
                render_plan(replace(plan, defects=())),
                render_plan(replace(plan, defects=(), shown=plan.scene)),
            )
            assert changed.max() > 0.3
        else:
            alone = render_plan(replace(plan, defects=(defect,)))
            assert difference(alone, render_plan(replace(plan, defects=()))).max() > 0.15, defect


def test_impossible_defects_are_not_drawn():
    for plan in (world_plan("train", index) for index in range(1500)):
        labels = {d.label for d in plan.defects}
        assert all(showable(label, plan.shown) for label in labels if label not in LABELS["text_alignment"])
        assert "wrong relation" not in labels or plan.scene.relation
        assert "missing object" not in labels or len(plan.shown.groups) < len(plan.scene.groups)


def test_alterations_say_how_wrong_they_are():
    rng = np.random.default_rng(1)
    scene = next(s for s in (draw_scene(rng, "train") for _ in range(500)) if len(s.groups) == 1)
    missing = [d for _ in range(60) for d in alter(scene, [1.0], rng)[1] if d.label == "missing object"]
    assert missing and all(d.severity == 1.0 for d in missing)
    low = [d.severity for _ in range(60) for d in alter(scene, [0.2], rng)[1] if d.label == "wrong color"]
    high = [d.severity for _ in range(60) for d in alter(scene, [1.0], rng)[1] if d.label == "wrong color"]
    assert max(low) < min(high)


@given(st.sampled_from(SHOWN), st.floats(0.15, 0.9), st.floats(0.01, 0.1))
def test_quality_falls_with_severity_and_extent(kind, severity, step):
    one, more = (Defect(*kind, value) for value in (severity, severity + step))
    part = Defect(*kind, severity, 0.5, 1.0)
    quality = [latent_quality([d], 2.0)[kind[0]] for d in (one, more)]
    assert 1 <= quality[1] < quality[0] < 5
    assert latent_quality([part], 2.0)[kind[0]] >= quality[0]
    assert latent_quality([one, more], 2.0)[kind[0]] < quality[1]


@pytest.mark.parametrize(("dimension", "label"), SHOWN)
def test_degrade_works_on_any_clip(dimension, label):
    rng = np.random.default_rng(0)
    still = rng.integers(0, 255, (6, 8, 3)).astype(np.uint8).repeat(9, axis=0).repeat(9, axis=1)
    clip = np.stack([np.roll(still, 2 * k, axis=1) for k in range(10)])
    times = np.cumsum(rng.uniform(0.05, 0.2, 10))
    times -= times[0]
    defect = Defect(dimension, label, 0.7, round(times[2], 3), round(times[7], 3))
    before = clip.copy()
    made = degrade(clip, times, [defect], np.random.default_rng(4))
    assert np.array_equal(clip, before) and made.shape == clip.shape and made.dtype == np.uint8
    changed = (made != clip).any(axis=(1, 2, 3))
    assert changed.any() and not changed[[0, 1, 8, 9]].any()
    assert np.array_equal(made, degrade(clip, times, [defect], np.random.default_rng(4)))
    assert np.array_equal(degrade(clip, times, [defect], rng, skip=[label]), clip)
