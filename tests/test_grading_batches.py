"""Grading whole batches: any text, masks, weights, and what answers about the world earn."""

import itertools
import math
import time
from statistics import fmean

import pytest
from grading_cases import (
    JUMP,
    answer,
    by_dimension,
    clip,
    defects,
    grade_clips,
    levels,
    opinions,
    rewards,
    true_answer,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError
from qsave_reward.grading import MINIMUM, WEIGHTS, grade, grade_format, read_answer
from qsave_reward.prompt import parse_report
from qsave_reward.types import DIMENSIONS, Defect, Record
from qsave_reward.world import world_plan
from qsave_reward.world.stream import plan_record

hostile = st.text(st.characters(codec=None)) | st.text(alphabet="<>/think no defect:,()0.-s\n\udcff\x00")


@given(hostile)
@example("<think>" * 5000)
@example("<think>" + "</think>" * 5000 + answer())
@example("\ud800" + answer() + "\udfff")
@example(f"<think><think>{answer()}</think></think>" + answer())
@example(answer().replace("no defect", "blur (severe, 999999.9-999999.9 s)", 1))
@example(answer().replace("no defect", "blur (severe, ٣.٣-٤.٤ s)", 1))
@settings(deadline=None)
def test_any_text_is_graded_and_only_a_parsed_one_above_the_minimum(text):
    for candidate in (text, answer().replace("no defect", text), f"<think>{text}</think>{text}"):
        graded = grade_clips([candidate, answer()], [clip(), clip(name="b")])
        if read_answer(candidate) is None:
            assert {part[0] for part in graded.values()} <= {MINIMUM, None}
        else:
            assert parse_report(candidate) == read_answer(candidate)
            assert graded["format"][0] == 1.0
            assert all(part[0] is None or 0 <= part[0] <= 1 + 1e-12 for part in graded.values())


@pytest.mark.parametrize(
    "text",
    [
        "a" * 10_000_000,
        answer().replace("no defect", "a" * 1_000_000, 1),
        "<think></think>" + " " * 1_000_000 + "\nx\ny",
        "<think>" + "</think> " * 100_000,
    ],
)
def test_text_made_to_stall_the_parser_is_refused_soon(text):
    began = time.process_time()
    assert read_answer(text) is None
    assert time.process_time() - began < 5


def test_format_is_all_or_nothing():
    assert (grade_format(read_answer(answer())), grade_format(read_answer("good"))) == (1.0, MINIMUM)


def test_the_weights():
    assert WEIGHTS == {"accuracy": 1.0, "ranking": 1.0, "attribution": 1.0, "agreement": 0.5, "format": 0.25}


def test_a_perfect_answer_earns_the_maximum_in_every_way():
    clips = [clip((5.0, 2.0, 5.0), (JUMP,)), clip((1.0, 5.0, 1.0), (), "b")]
    graded = grade_clips([answer((5, 2, 5), (JUMP,)), answer((1, 5, 1))], clips)
    assert list(graded) == list(WEIGHTS)
    assert {name: part[0] for name, part in graded.items()} == pytest.approx(dict.fromkeys(WEIGHTS, 1.0))
    assert graded["ranking"] == pytest.approx((1.0, 1.0))


def test_a_clip_nobody_rated_is_graded_for_what_is_known_or_not_at_all():
    unknown = Record("a.mp4", "a cat")
    assert grade_clips([answer(), "?"], [unknown] * 2) == {
        "accuracy": (None, None),
        "ranking": (None, None),
        "attribution": (None, None),
        "agreement": (1.0, MINIMUM),
        "format": (1.0, MINIMUM),
    }


answers = st.builds(answer, levels, defects()) | st.sampled_from(["", "<think></think>", "?" * 50])


@st.composite
def batches(draw):
    """Answers in any order, one to three for each of one to three clips, some of them rated in part."""
    texts, clips = [], []
    for name in draw(st.sampled_from(["a", "ab", "abc"])):
        mos = by_dimension(*draw(opinions))
        rated = draw(st.sets(st.sampled_from(DIMENSIONS)))
        known = draw(st.none() | defects())
        record = Record(name, "a cat", mos={key: mos[key] for key in mos if key in rated}, defects=known)
        written = draw(st.lists(answers, min_size=1, max_size=3))
        texts += written
        clips += [record] * len(written)
    return texts, clips


@given(batches())
@settings(deadline=None)
def test_grades_are_bounded_and_masked_by_clip(batch):
    texts, clips = batch
    graded = grade_clips(texts, clips)
    for values in graded.values():
        assert all(value is None or 0 <= value <= 1 + 1e-12 for value in values)
        assert len(values) == len(texts)
    for group in {c.video for c in clips}:
        members = [i for i, c in enumerate(clips) if c.video == group]
        for part in graded.values():
            assert len({part[i] is None for i in members}) == 1
    for text, format_grade, reward in zip(texts, graded["format"], rewards(graded), strict=True):
        assert (reward > MINIMUM) == (format_grade == 1.0) == (read_answer(text) is not None)


@given(batches(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_a_batch_does_not_matter(batch, random):
    texts, clips = batch
    order = list(range(len(texts)))
    random.shuffle(order)
    plain = grade_clips(texts, clips)
    mixed = grade_clips([texts[i] for i in order], [clips[i] for i in order])
    for name, before in plain.items():
        assert list(mixed[name]) == pytest.approx([before[i] for i in order])


def test_an_empty_batch_and_single_answers_are_fine():
    assert grade([], [], groups=[], durations=[]) == dict.fromkeys(WEIGHTS, ())
    alone = grade_clips([answer()], [clip()])
    assert alone == {**dict.fromkeys(WEIGHTS, (1.0,)), "ranking": (None,)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": ["x"]}, "one text, record, group and duration"),
        ({"texts": ["x", [{"role": "assistant", "content": "x"}]]}, "as text, got list"),
        ({"texts": ["x", None]}, "as text, got NoneType"),
        ({"durations": [2.0, 0.0]}, "above 0"),
        ({"durations": [2.0, math.nan]}, "above 0"),
        ({"durations": [math.inf, 2.0]}, "above 0"),
        ({"groups": "aa"}, "group 'a' mixes clips"),
        ({"durations": [2.0, 3.0], "records": [clip()] * 2, "groups": "aa"}, "mixes clips"),
    ],
)
def test_wrong_arguments_are_errors(change, message):
    batch = {"texts": ["x", "y"], "records": [clip(), clip(name="b")], "groups": "ab", "durations": [2.0] * 2}
    batch |= change
    with pytest.raises(ConfigError, match=message):
        grade(batch.pop("texts"), batch.pop("records"), **batch)


def test_the_worst_answer_that_can_be_read_beats_any_that_cannot():
    wrong = [Defect(dimension, "nothing", 0.25) for dimension in DIMENSIONS]
    texts = [answer((1, 1, 1), wrong), answer((5, 5, 5)), "?"]
    graded = grade_clips(texts, [clip(), clip((1.0, 1.0, 1.0), (), "b"), clip()])
    worst, _, unread = rewards(graded)
    assert worst == pytest.approx(0.25 + 0.5 * graded["agreement"][0], abs=4e-4)
    assert worst > unread == MINIMUM


@pytest.fixture(scope="module")
def world():
    """Mean grades of true answers and of four kinds of worse ones, over batches of eight clips."""
    plans = [world_plan("train", index) for index in range(480)]
    others = plans[1:] + plans[:1]
    kinds = {
        "true": [true_answer(plan) for plan in plans],
        "of another clip": [true_answer(plan) for plan in others],
        "reasons of another clip": [
            true_answer(plan, other.defects) for plan, other in zip(plans, others, strict=True)
        ],
        "no reasons": [true_answer(plan, ()) for plan in plans],
        **{f"always {k}": [answer((k, k, k))] * len(plans) for k in (3, 4, 5)},
    }
    return {kind: mean_grades(plans, texts) for kind, texts in kinds.items()}


def mean_grades(plans, texts):
    """Means over all answers of each grade, and of the reward as a share of the most that can be earned."""
    earned = {name: [] for name in (*WEIGHTS, "reward")}
    for first in range(0, len(plans), 8):
        part = plans[first : first + 8]
        graded = grade(
            texts[first : first + 8],
            [plan_record(plan) for plan in part],
            groups=[plan.name for plan in part],
            durations=[plan.config.num_frames / plan.config.fps for plan in part],
        )
        for name, values in graded.items():
            earned[name] += values
        earned["reward"] += [reward / sum(WEIGHTS.values()) for reward in rewards(graded)]
    return {name: fmean(values) for name, values in earned.items()}


def test_true_answers_earn_nearly_everything(world):
    true = world["true"]
    assert true["reward"] > 0.93
    assert true["agreement"] > 0.99  # in the band in 99.7 % of dimensions
    assert true["attribution"] > 0.98  # written spans are rounded to 0.1 s
    assert true["accuracy"] > 0.85 and true["ranking"] > 0.9  # levels are whole, MOS is not
    assert true["format"] == 1.0


def test_worse_answers_earn_clearly_less(world):
    for kind in set(world) - {"true"}:
        assert world[kind]["reward"] < world["true"]["reward"] - 0.15, kind
    for kind in ("always 3", "always 4", "always 5"):
        assert world[kind]["accuracy"] < 0.5 * world["true"]["accuracy"]
    assert world["reasons of another clip"]["agreement"] < 0.85
    assert world["reasons of another clip"]["attribution"] < 0.3
    for kind, other in itertools.pairwise(["true", "no reasons", "always 4", "of another clip"]):
        assert world[kind]["reward"] > world[other]["reward"]
