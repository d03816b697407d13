"""Clips, answers and strategies shared by the tests of grading."""

from hypothesis import strategies as st

from qsave_reward.grading import WEIGHTS, grade
from qsave_reward.prompt import Report, reasoned_answer
from qsave_reward.types import DIMENSIONS, Defect, Record
from qsave_reward.world.stream import plan_record

VISUAL, DYNAMIC, TEXT = DIMENSIONS
BLUR = Defect(VISUAL, "blur", 0.55, 0.0, 1.0)
JUMP = Defect(DYNAMIC, "jump", 0.85)


def by_dimension(*values):
    return dict(zip(DIMENSIONS, values, strict=True))


def report(levels=(5, 5, 5), defects=()):
    return Report("", tuple(defects), by_dimension(*levels))


def answer(levels=(5, 5, 5), defects=()):
    return reasoned_answer(defects, None, by_dimension(*levels))


def clip(mos=(5.0, 5.0, 5.0), defects=(), name="a.mp4"):
    return Record(name, "a cat", mos=by_dimension(*mos), defects=defects)


def grade_clips(texts, clips):
    """Answers of clips, grouped by the clip's name; every clip lasts two seconds."""
    return grade(texts, clips, groups=[c.video for c in clips], durations=[2.0] * len(clips))


def rewards(graded):
    """What the trainer makes of the grades of each answer: the weighted sum of those that exist."""
    rows = [dict(zip(graded, row, strict=True)) for row in zip(*graded.values(), strict=True)]
    return [sum(WEIGHTS[name] * value for name, value in row.items() if value is not None) for row in rows]


levels = st.tuples(*[st.integers(1, 5)] * 3)
opinions = st.tuples(*[st.floats(1, 5)] * 3)
spans = st.none() | st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted)


@st.composite
def defects(draw):
    found = []
    for dimension in DIMENSIONS:
        for label in draw(st.lists(st.sampled_from(["blur", "jump", "noise"]), max_size=3)):
            span = draw(spans)
            start, end = (None, None) if span is None else (span[0] / 10, span[1] / 10)
            found.append(Defect(dimension, label, draw(st.sampled_from([0.25, 0.55, 0.85])), start, end))
    return tuple(found)


def true_answer(plan, defects=None, levels=None):
    record = plan_record(plan)
    rounded = {dimension: round(value) for dimension, value in record.mos.items()}
    named = record.defects if defects is None else defects
    return reasoned_answer(named, record.rationale, levels or rounded)
