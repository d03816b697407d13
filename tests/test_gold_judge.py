"""The gold judge: scores of clips with known content, symmetries, defects, hostile input, the command."""

import json
import math
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import numpy as np
import pytest
from gold_cases import TIME, WAYS, drawn
from hypothesis import given, settings
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError, VideoError
from qsave_reward.types import DIMENSIONS, Defect
from qsave_reward.world import WorldConfig, render_plan
from qsave_reward.world.phrasing import VERBS
from qsave_reward.world.scene import COLORS, MOTIONS, SHAPES

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

import gold_judge
from gold_judge import SUMMARIES, GoldScores, blurred, empty_clips, faded, gold_scores, single_plans, validate

CLEAN = WorldConfig(height=64, width=64, num_frames=17, fps=8.0, clean=True)
PARTS = [field.name for field in fields(GoldScores)]


def mean_scores(clips, names):
    found = [gold_scores(frames, prompt) for frames, prompt in clips]
    return [float(np.mean([getattr(score, name) for score in found])) for name in names]


@pytest.fixture(scope="module")
def clean():
    """Twelve clean clips of the world with their plans."""
    plans = single_plans("val", 12, config=CLEAN)
    return [(plan, render_plan(plan).frames) for plan in plans]


NOT_UNDERSTOOD = """
a red circle
red circle moves left
a crimson circle moves left
two red circles move left
a red circle move left
a red circle moves left and a blue square grows
a red circle moves left while the camera pans up
a red circle moves left moves right
a red circle moves left on a gray background
a red circle moves left: ignore this"""


@pytest.mark.parametrize("prompt", [*NOT_UNDERSTOOD.splitlines(), None, 3, b"a red circle moves left"])
def test_a_prompt_that_is_not_understood_is_no_number(prompt):
    with pytest.raises(ConfigError, match="expected a prompt with one object") as caught:
        gold_scores(drawn(), prompt)
    assert caught.value.code == "bad_prompt"


@pytest.mark.parametrize("color", COLORS)
def test_a_color_is_told_from_others(color):
    frames = drawn(color=COLORS[color])
    assert gold_scores(frames, f"a {color} square stays still").color > 0.95
    for other in np.roll(list(COLORS), -list(COLORS).index(color))[[1, 4, 7, 9]]:
        assert gold_scores(frames, f"a {other} square stays still").color < 0.05


@pytest.mark.parametrize(
    ("motion", "backwards"),
    [("left", "right"), ("up", "down"), ("grow", "shrink"), ("appear", "disappear"), ("orbit", "orbit")],
)
def test_time_reversed_is_the_opposite(motion, backwards):
    frames = drawn("square", **WAYS[motion])
    for clip, right, wrong in ((frames, motion, backwards), (frames[::-1], backwards, motion)):
        assert gold_scores(clip, f"a red square {VERBS[right][0][0]}").motion > 0.85
        if right != wrong:
            assert gold_scores(clip, f"a red square {VERBS[wrong][0][0]}").motion < 0.05


def test_a_mirror_swaps_left_and_right():
    left, right = (f"a red star {VERBS[motion][0][0]}" for motion in ("left", "right"))
    frames = drawn("star", y=0.4, **WAYS["left"])
    mirrored = gold_scores(frames[:, :, ::-1], right)
    straight = gold_scores(frames, left)
    assert [getattr(mirrored, name) for name in PARTS] == pytest.approx(
        [getattr(straight, name) for name in PARTS], abs=0.02
    )
    assert gold_scores(frames[:, :, ::-1], left).motion < 0.01 < 0.9 < straight.motion
    # Upside down, left stays left.
    assert gold_scores(frames[:, ::-1], left).motion == pytest.approx(straight.motion, abs=0.02)


@settings(max_examples=12, deadline=None)
@given(st.integers(-9, 9), st.integers(-9, 9))
def test_where_the_object_is_does_not_matter(right, down):
    frames = drawn("cross", (40, 75, 215), **WAYS["rotate"])
    moved = gold_scores(np.roll(frames, (down, right), axis=(1, 2)), "a blue cross spins")
    resting = gold_scores(frames, "a blue cross spins")
    assert [getattr(moved, n) for n in PARTS] == pytest.approx([getattr(resting, n) for n in PARTS], abs=0.02)


def test_a_motion_must_go_far_enough():
    found = []
    for share in (0, 0.1, 0.25, 0.5, 1):
        frames = drawn(x=0.5 + share * 0.42 * (TIME - 0.5))
        found.append(gold_scores(frames, "a red square moves right").motion)
    assert found == sorted(found) and found[0] < 0.01 and found[1] < 0.1 and found[2] < 0.5 < found[3]


def test_a_second_object_halves_the_alignment():
    one, two = drawn("circle", x=0.25, radius=0.13), drawn("circle", x=0.75, radius=0.13)
    both = np.where(two != 128, two, one)
    single, double = (gold_scores(frames, "a red circle does not move") for frames in (one, both))
    assert single.alone == 1 and double.alone == pytest.approx(0.5, abs=0.01)
    assert double.alignment == pytest.approx(single.alignment / 2, abs=0.02)


def test_a_frozen_clip_is_not_steady_but_a_resting_object_is():
    frozen = gold_scores(drawn(), "a red square moves left")
    assert frozen.motion < 0.01 and frozen.steadiness == pytest.approx(0.5, abs=0.01)
    assert gold_scores(drawn(), "a red square stays still").steadiness == pytest.approx(1, abs=0.01)


def test_only_brightness_that_comes_back_is_flicker():
    frames = drawn(**WAYS["right"]).astype(float)
    prompt = "a red square moves right"
    step, dark = np.where(TIME < 0.5, 1.0, 0.7), np.where(np.arange(17) % 2, 0.7, 1.0)
    found = [
        gold_scores(np.rint(frames * gain[:, None, None, None]).astype(np.uint8), prompt)
        for gain in (np.ones(17), step, dark)
    ]
    values = [scores.steadiness for scores in found]
    assert values[0] > 0.95 and values[1] > 0.85 and values[2] < 0.1
    # The object itself keeps its color and its way.
    assert min(scores.color for scores in found) > 0.9 and min(scores.motion for scores in found) > 0.9


def test_clean_clips_of_the_world_score_high(clean):
    clips = [(frames, plan.prompt) for plan, frames in clean]
    means = dict(zip(PARTS, mean_scores(clips, PARTS), strict=True))
    assert min(means.values()) > 0.85, means
    large = [
        render_plan(replace(plan, config=replace(CLEAN, height=128, width=192))) for plan, _ in clean[:4]
    ]
    clips = [(item.frames, item.record.prompt) for item in large]
    assert min(mean_scores(clips, ["visual", "dynamic", "alignment"])) > 0.8


FALLS = {
    "sharpness": ("blur", "noise", "blockiness"),
    "purity": ("exposure", "color cast", "shape distortion"),
    "steadiness": ("jitter", "flicker", "jump", "freeze"),
}


@pytest.mark.parametrize(("part", "label"), [(part, label) for part in FALLS for label in FALLS[part]])
def test_a_defect_lowers_its_part(clean, part, label):
    span = (0.5, 1.625) if label in ("jump", "freeze") else (None, None)
    dimension = DIMENSIONS[part == "steadiness"]
    moving = [row for row in clean if row[0].scene.groups[0].motion in ("left", "right", "up", "orbit")]
    assert len(moving) >= 3
    worse = [render_plan(replace(p, defects=(Defect(dimension, label, 0.9, *span),))) for p, _ in moving]
    (before,) = mean_scores([(frames, plan.prompt) for plan, frames in moving], [part])
    (after,) = mean_scores([(item.frames, item.record.prompt) for item in worse], [part])
    assert after < before - (0.25 if part == "purity" else 0.4)


def test_worse_pictures_score_worse_and_worse(clean):
    clips = [(frames, plan.prompt) for plan, frames in clean[:6]]
    for worsen, amounts, names in (
        (blurred, (0, 0.6, 1.2, 2.5, 4), ["overall", "visual"]),
        (faded, (0, 0.25, 0.5, 0.75, 1), ["overall", "color"]),
    ):
        rows = [mean_scores([(worsen(f, amount), p) for f, p in clips], names) for amount in amounts]
        assert (np.diff(rows, axis=0) < 0).all(), rows
    # What is left without an object is nothing, not an average.
    assert rows[-1] == [0, 0]


def test_without_an_object_nothing_is_aligned(clean):
    rng = np.random.default_rng(0)
    for plan, _ in clean[:6]:
        for name, frames in empty_clips(plan, rng).items():
            assert gold_scores(frames, plan.prompt).alignment < 0.05, name


@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_constant_frames_score_zero(value):
    scores = gold_scores(np.full((9, 40, 64, 3), value, np.uint8), "a white ring fades in")
    assert scores.as_dict() == dict.fromkeys([*PARTS, *SUMMARIES], 0.0)


SHAPES_OF_OTHERS = (
    "17 64 64, 17 64 64 4, 17 3 64 64, 1 17 64 64 3, 7 64 64 3, 1 64 64 3, 0 64 64 3, 9 31 64 3, 0"
)


@pytest.mark.parametrize("shape", [[int(n) for n in text.split()] for text in SHAPES_OF_OTHERS.split(",")])
def test_frames_of_another_shape_are_an_error(shape):
    with pytest.raises(VideoError, match=r"expected uint8 \[T, H, W, 3\].*got uint8") as caught:
        gold_scores(np.zeros(shape, np.uint8), "a red circle moves left")
    assert caught.value.code == "bad_shape"


@pytest.mark.parametrize(
    "frames", [np.zeros((9, 64, 64, 3)), np.zeros((9, 64, 64, 3), np.int8), [[[[0]]]], None]
)
def test_frames_of_another_type_are_an_error(frames):
    with pytest.raises(VideoError, match=r"expected uint8 \[T, H, W, 3\]"):
        gold_scores(frames, "a red circle moves left")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(8, 20), st.integers(32, 70), st.integers(32, 70))
def test_anything_gets_scores_between_0_and_1(seed, count, height, width):
    rng = np.random.default_rng(seed)
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = rng.integers(0, 256, 3)
    for _ in range(int(rng.integers(0, 4))):  # boxes that come and go, touch the border or fill the frame
        (a, b), (c, d), (e, f) = (np.sort(rng.integers(0, n + 1, 2)) for n in frames.shape[:3])
        frames[a:b, c:d, e:f] = (
            rng.integers(0, 256, 3) if rng.random() < 0.7 else rng.integers(0, 256, (b - a, d - c, f - e, 3))
        )
    prompt = f"a {rng.choice(list(COLORS))} {rng.choice(SHAPES)} {VERBS[str(rng.choice(MOTIONS))][0][0]}"
    scores = gold_scores(frames, prompt).as_dict()
    assert list(scores) == [*PARTS, *SUMMARIES] and all(0 <= value <= 1 for value in scores.values())


def test_frames_are_only_read_in_any_layout(clean):
    plan, frames = clean[0]
    expected = gold_scores(frames, plan.prompt)
    backwards = np.ascontiguousarray(frames[..., ::-1])[..., ::-1]
    backwards.flags.writeable = False
    assert not backwards.flags.c_contiguous and gold_scores(backwards, plan.prompt) == expected


def test_summaries_by_hand():
    scores = GoldScores(0.5, 1.0, 0.25, 0.5, 0.8, 0.4, 0.9)
    assert scores.visual == pytest.approx(0.6) and scores.dynamic == 0.9
    assert scores.alignment == pytest.approx(0.25)
    assert scores.overall == pytest.approx((0.6 + 0.9 + 0.25) / 3)
    with pytest.raises(FrozenInstanceError):
        scores.color = 1.0
    for wrong in (-0.1, 1.01, math.nan):
        with pytest.raises(ConfigError, match="steadiness must be in 0..1"):
            GoldScores(0, 0, 0, 0, 0, 0, wrong)


def test_the_command(monkeypatch, capsys):
    found = {"clean clips": {"color": 0.5}, "time": {"processor milliseconds a clip": 20.0}}
    asked = []
    monkeypatch.setattr(gold_judge, "validate", lambda *given: asked.append(given) or found)
    monkeypatch.setattr(sys, "argv", ["x", "--limit", "7", "--size", "96", "--json"])
    gold_judge.main()
    assert json.loads(capsys.readouterr().out) == found and asked == [(7, 96)]
    monkeypatch.setattr(sys, "argv", ["x"])
    gold_judge.main()
    text = capsys.readouterr().out
    assert "gold judge on 300 clips" in text and "0.500" in text and "20.000" in text
    with pytest.raises(ConfigError, match="at least 2 clips"):
        validate(1, 64)


def test_validation_finds_what_is_known():
    found = validate(6, 64)
    assert all(value > 0.8 for value in found["clean clips"].values())
    assert max(found["asked for another one: that part"].values()) < 0.2
    assert max(found["no object: alignment"].values()) < 0.05
    assert list(found["SRCC with true quality"]) == list(SUMMARIES[:3])
    falls = found["with a defect, minus without any of its dimension"]
    assert len(falls) > 3 and np.mean(list(falls.values())) < -0.2
