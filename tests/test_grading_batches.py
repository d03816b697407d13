"""Grading whole batches: any text, masks, weights, summaries, and what answers about the world earn."""

import dataclasses
import itertools
import math
import time

import pytest
from grading_cases import (
    JUMP,
    VISUAL,
    answer,
    by_dimension,
    clip,
    defects,
    grade_clips,
    levels,
    opinions,
    true_answer,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError
from qsave_reward.grading import MINIMUM, Weights, grade, grade_format, read_answer
from qsave_reward.prompt import parse_report
from qsave_reward.types import DIMENSIONS, Defect, Record
from qsave_reward.world import world_plan
from qsave_reward.world.stream import plan_record

GRADERS = {"accuracy", "ranking", "attribution", "agreement", "format"}

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
            assert graded.total[0] == MINIMUM == 0.0
            assert {part[0] for part in graded.parts.values()} <= {MINIMUM, None}
        else:
            assert parse_report(candidate) == read_answer(candidate)
            assert 0 < graded.total[0] <= 1
        assert graded.summary["characters"] == (len(candidate) + len(answer())) / 2


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


def test_a_perfect_answer_earns_the_maximum_in_every_way():
    clips = [clip((5.0, 2.0, 5.0), (JUMP,)), clip((1.0, 5.0, 1.0), (), "b")]
    texts = [answer((5, 2, 5), (JUMP,)), answer((1, 5, 1))]
    graded = grade_clips(texts, clips)
    assert set(graded.parts) == GRADERS == {field.name for field in dataclasses.fields(Weights)}
    assert graded.parts["ranking"] == pytest.approx((1.0, 1.0))
    assert graded.total[0] == pytest.approx(1.0)
    assert {name: part[0] for name, part in graded.parts.items()} == pytest.approx(
        dict.fromkeys(GRADERS, 1.0)
    )


def test_the_total_is_the_weighted_mean_of_the_graders_that_exist():
    full, bare = clip(), Record("b", "a cat", mos={VISUAL: 2.0})
    texts = [answer((4, 5, 5), (JUMP,)), answer((3, 1, 1))]
    graded = grade_clips(texts, [full, bare], weights=Weights(3.0, 2.0, 1.0, 0.5, 0.25))
    first = {name: part[0] for name, part in graded.parts.items()}
    expected = 3 * first["accuracy"] + 2 * first["ranking"] + first["attribution"] + first["agreement"] / 2
    assert graded.total[0] == pytest.approx((expected + 0.25) / 6.75)
    assert graded.parts["attribution"][1] is None
    second = {name: part[1] for name, part in graded.parts.items()}
    expected = 3 * second["accuracy"] + 2 * second["ranking"] + second["agreement"] / 2
    assert graded.total[1] == pytest.approx((expected + 0.25) / 5.75)


def test_a_clip_nobody_rated_is_graded_for_what_is_known_or_not_at_all():
    unknown = Record("a.mp4", "a cat")
    graded = grade_clips([answer(), "?"], [unknown] * 2)
    masked = {name for name, part in graded.parts.items() if part == (None, None)}
    assert masked == {"accuracy", "ranking", "attribution"}
    assert graded.total == (1.0, MINIMUM)
    assert graded.summary["total"] == 0.5 and "accuracy" not in graded.summary
    only_accuracy = grade_clips([answer(), "?"], [unknown] * 2, weights=Weights(1, 0, 0, 0, 0))
    assert only_accuracy.total == (None, None)
    assert "total" not in only_accuracy.summary and "zero_spread" not in only_accuracy.summary


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
    for values in (graded.total, *graded.parts.values()):
        assert all(value is None or 0 <= value <= 1 + 1e-12 for value in values)
        assert len(values) == len(texts)
    for group in {c.video for c in clips}:
        members = [i for i, c in enumerate(clips) if c.video == group]
        for part in graded.parts.values():
            assert len({part[i] is None for i in members}) == 1
    assert all(math.isfinite(value) for value in graded.summary.values())
    read = [value for value, text in zip(graded.total, texts, strict=True) if read_answer(text)]
    assert all(value > MINIMUM for value in read)
    assert graded.summary["failed"] == pytest.approx(1 - len(read) / len(texts))


@given(batches(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_a_batch_does_not_matter(batch, random):
    texts, clips = batch
    order = list(range(len(texts)))
    random.shuffle(order)
    plain = grade_clips(texts, clips)
    mixed = grade_clips([texts[i] for i in order], [clips[i] for i in order])
    for before, after in zip(
        (plain.total, *plain.parts.values()), (mixed.total, *mixed.parts.values()), strict=True
    ):
        assert list(after) == pytest.approx([before[i] for i in order])
    assert mixed.summary == pytest.approx(plain.summary)


def test_summary_by_hand():
    clips = [clip((4.0, 4.0, 4.0), None)] * 2 + [clip((2.0, 2.0, 2.0), None, "b")] * 2 + [clip(name="c")]
    texts = [answer((4, 4, 4)), answer((4, 4, 4)), answer((3, 3, 3)), "no", answer()]
    graded = grade_clips(texts, clips)
    summary = graded.summary
    assert summary["failed"] == 1 / 5
    assert summary["format"] == 4 / 5
    assert summary["zero_spread"] == summary["zero_spread/accuracy"] == 1 / 2  # of a, b; c has one answer
    assert summary["characters"] == sum(map(len, texts)) / 5
    assert summary["attribution"] == 1.0 and "zero_spread/attribution" not in summary
    for name in GRADERS:
        known = [value for value in graded.parts[name] if value is not None]
        assert summary[name] == pytest.approx(sum(known) / len(known))
    assert summary["total"] == pytest.approx(sum(graded.total) / 5)


def test_an_empty_batch_and_single_answers_are_fine():
    empty = grade([], [], groups=[], durations=[])
    assert empty.total == () and empty.summary == {}
    alone = grade_clips([answer()], [clip()])
    assert alone.total == (1.0,)
    assert alone.parts["ranking"] == (None,)


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
    assert dataclasses.astuple(Weights()) == (1.0, 1.0, 1.0, 0.5, 0.25)
    wrong = [Defect(dimension, "nothing", 0.25) for dimension in DIMENSIONS]
    texts = [answer((1, 1, 1), wrong), answer((5, 5, 5)), "?"]
    graded = grade_clips(texts, [clip(), clip((1.0, 1.0, 1.0), (), "b"), clip()])
    assert graded.total[0] == pytest.approx((0.25 + 0.5 * graded.parts["agreement"][0]) / 3.75, abs=1e-4)
    assert graded.total[0] > graded.total[2] == MINIMUM


@pytest.mark.parametrize(
    "values", [{"accuracy": -1.0}, {"format": math.nan}, {"ranking": math.inf}, dict.fromkeys(GRADERS, 0.0)]
)
def test_wrong_weights_are_errors(values):
    with pytest.raises(ConfigError, match="finite weights"):
        Weights(**values)


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
    return {kind: mean_summary(plans, texts) for kind, texts in kinds.items()}


def mean_summary(plans, texts):
    summaries = []
    for first in range(0, len(plans), 8):
        part = plans[first : first + 8]
        graded = grade(
            texts[first : first + 8],
            [plan_record(plan) for plan in part],
            groups=[plan.name for plan in part],
            durations=[plan.config.num_frames / plan.config.fps for plan in part],
        )
        summaries.append(graded.summary)
    return {name: sum(s[name] for s in summaries) / len(summaries) for name in summaries[0]}


def test_true_answers_earn_nearly_everything(world):
    true = world["true"]
    assert true["total"] > 0.93
    assert true["agreement"] > 0.99  # in the band in 99.7 % of dimensions
    assert true["attribution"] > 0.98  # written spans are rounded to 0.1 s
    assert true["accuracy"] > 0.85 and true["ranking"] > 0.9  # levels are whole, MOS is not
    assert true["failed"] == 0


def test_worse_answers_earn_clearly_less(world):
    for kind in set(world) - {"true"}:
        assert world[kind]["total"] < world["true"]["total"] - 0.15, kind
    for kind in ("always 3", "always 4", "always 5"):
        assert world[kind]["accuracy"] < 0.5 * world["true"]["accuracy"]
    assert world["reasons of another clip"]["agreement"] < 0.85
    assert world["reasons of another clip"]["attribution"] < 0.3
    for kind, other in itertools.pairwise(["true", "no reasons", "always 4", "of another clip"]):
        assert world[kind]["total"] > world[other]["total"]
