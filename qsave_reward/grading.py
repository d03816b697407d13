"""How a written answer of our own model is graded when the model is trained with GRPO. Pure functions.

    grades = grade(texts, records, groups=clip_ids, durations=seconds)
    grades["accuracy"]      # one number in [0, 1], or None, for each answer

Five graders, each in [0, 1], more is better: *accuracy* (levels against MOS), *ranking* (order among the
clips of the batch), *attribution* (named defects and their spans), *agreement* (do the reasons carry the
score?) and *format*. An answer that cannot be read (`report=None`) earns `MINIMUM` from each. A grader that
a clip offers no truth for is `None`, never a number; that depends on the clip and its batch, not on the
answer, so all answers of a clip are graded by the same graders.

Q-Save has not published its graders: formulas name their source or are our own choice. Weighing the grades
and logging them is the trainer's work.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import fmean, pvariance
from typing import NamedTuple

from qsave_reward.errors import AnswerError, ConfigError
from qsave_reward.metrics import attribution_f1, span_iou
from qsave_reward.prompt import Report, parse_report
from qsave_reward.types import DIMENSIONS, LEVELS, Defect, Record

Grade = float | None
"""0 to 1, or `None` where a clip offers no truth to compare with."""

MINIMUM = 0.0
"""What an answer that cannot be read earns from each grader."""

BELL, BELL_SHARE = 0.5, 0.75
"""`grade_accuracy`: width of the bell in score points, and its share of the grade."""

ROUNDING = 1 / 6
"""Variance of the difference of two scores that were each rounded to a whole level (1/12 each)."""

LOST, MOST_LOST, SLACK = 3.5, 3.0, 1.25
"""`grade_agreement`, in levels: cost of a defect of severity 1, most that all cost, tolerance."""

_WIDTH = len(LEVELS) - 1

WEIGHTS: Mapping[str, float] = {
    "accuracy": 1.0,
    "ranking": 1.0,
    "attribution": 1.0,
    "agreement": 0.5,
    "format": 0.25,
}
"""The graders, and what each counts in the weighted sum that the trainer makes unless it is told otherwise.

Our own choice: a comparison with the truth counts fully, one of the answer with itself half; format, settled
by supervised training, counts little, but enough that an answer that can be read beats any that cannot.
"""
# The sum need not be divided by the weights of the graders that a clip offers truth for: all its answers have
# the same graders, so leaving one out only scales the rewards of a group, which group normalization removes.


def grade(
    texts: Sequence[str],
    records: Sequence[Record],
    *,
    groups: Sequence[Hashable],
    durations: Sequence[float],
) -> dict[str, tuple[Grade, ...]]:
    """Grade a batch of answers: several for each clip, several clips.

    Args:
        texts: what the model wrote, whatever it is.
        records: the clip of each answer: `mos` and `defects` are the truth.
        groups: a name for the clip of each answer; the answers of one clip are one GRPO group. Clips are
            ranked within what is given here, so a batch of one clip has no ranking grade.
        durations: seconds of the clip of each answer, above 0.

    Returns:
        For each of `WEIGHTS`, in this order, its grades, one for each answer in the order of the answers.

    Raises:
        ConfigError: for unequal lengths, a text that is no `str`, a duration that is not positive, or a group
            that mixes clips. Never because of what a text says.
    """
    _check_batch(texts, records, groups, durations)
    reports = [read_answer(text) for text in texts]
    mos = [record.mos for record in records]
    return {
        "accuracy": tuple(map(grade_accuracy, reports, mos)),
        "ranking": tuple(grade_ranking(reports, mos, groups=groups)),
        "attribution": tuple(
            grade_attribution(report, record.defects, duration=duration)
            for report, record, duration in zip(reports, records, durations, strict=True)
        ),
        "agreement": tuple(map(grade_agreement, reports)),
        "format": tuple(map(grade_format, reports)),
    }


def read_answer(text: str) -> Report | None:
    """`parse_report`, with `None` for an answer that is malformed."""
    try:
        return parse_report(text)
    except AnswerError:
        return None


def grade_format(report: Report | None) -> float:
    """1.0 for an answer of the agreed form, else `MINIMUM`."""
    return MINIMUM if report is None else 1.0


def grade_accuracy(report: Report | None, mos: Mapping[str, float]) -> Grade:
    """How close the written levels come to the MOS; mean over rated dimensions, `None` when there are none.

    For a distance of d score points, 0 to 4: 0.75 exp(-d² / (2 * 0.5²)) + 0.25 (1 - d / 4). The bell is
    VQAThinker's: flat near 0, where a whole level must miss a fractional MOS, and steep at the next level.
    Alone it is flat beyond d = 2, so that an answer far off learns nothing; the line (VQ-Insight's form, over
    the width of the scale) adds a slope of 1/16 a point everywhere. On the world the line alone would pay the
    best constant answer 0.77 of what the best whole levels earn; the sum pays it 0.47.
    """
    if not mos:
        return None
    if report is None:
        return MINIMUM
    distances = [abs(report.levels[dimension] - value) for dimension, value in mos.items()]
    bell = fmean(math.exp(-(d**2) / (2 * BELL**2)) for d in distances)
    return BELL_SHARE * bell + (1 - BELL_SHARE) * (1 - fmean(distances) / _WIDTH)


class _Clip(NamedTuple):
    mos: float
    mean: float
    variance: float


def grade_ranking(
    reports: Sequence[Report | None], mos: Sequence[Mapping[str, float]], *, groups: Sequence[Hashable]
) -> list[Grade]:
    """How well each answer ranks its clip among the other clips of the batch, by Thurstone's model.

    For an answer of level q about clip i and another clip j, whose answers have mean m_j and variance v_j:
    p = Phi((q - m_j) / sqrt(v_i + v_j + 1/6)) is the probability that i is the better one; g is 1, 1/2 or 0
    as its MOS is higher, equal or lower; the grade is the fidelity sqrt(p g) + sqrt((1 - p)(1 - g)), averaged
    over the other clips, then over dimensions. An undecided answer (p = 1/2) earns sqrt(1/2).
    Source: VisualQuality-R1 (arXiv 2505.14460), with a tiny constant in place of 1/6. Whole levels carry that
    variance from rounding; without it, unanimous clips would make every comparison all or nothing.

    Answers that cannot be read are left out of means and (population) variances, and earn `MINIMUM`. `None`
    for a clip that shares no rated dimension with another clip of which an answer could be read.
    """
    rows = []
    for name in DIMENSIONS:
        levels = [None if report is None else report.levels[name] for report in reports]
        rows.append(_rank(levels, [rated.get(name) for rated in mos], groups))
    return [_mean(column) for column in zip(*rows, strict=True)]


def _rank(levels: list[int | None], mos: list[float | None], groups: Sequence[Hashable]) -> list[Grade]:
    """The grades in one dimension; a level that could not be read and a MOS that nobody gave are `None`."""
    truth = {name: value for name, value in zip(groups, mos, strict=True) if value is not None}
    clips = {}
    for name, value in truth.items():
        read = [x for x, group in zip(levels, groups, strict=True) if group == name and x is not None]
        if read:
            clips[name] = _Clip(value, fmean(read), pvariance(read))
    grades: list[Grade] = []
    for level, group in zip(levels, groups, strict=True):
        others = [clip for name, clip in clips.items() if name != group]
        if group not in truth or not others:
            grades.append(None)
        elif level is None:
            grades.append(MINIMUM)
        else:
            grades.append(fmean(_fidelity(level, clips[group], other) for other in others))
    return grades


def _fidelity(level: float, own: _Clip, other: _Clip) -> float:
    z = (level - other.mean) / math.sqrt(2 * (own.variance + other.variance + ROUNDING))
    better, worse = math.erfc(-z) / 2, math.erfc(z) / 2
    if own.mos == other.mos:
        return math.sqrt(better / 2) + math.sqrt(worse / 2)
    return math.sqrt(better if own.mos > other.mos else worse)


def grade_attribution(report: Report | None, defects: Sequence[Defect] | None, *, duration: float) -> Grade:
    """How well the named defects match the true ones of a clip of `duration` seconds; mean over dimensions,
    `None` when the true ones are not known.

    In a dimension: 1 when there is nothing to name and nothing was named; else F1 of the labels times
    (1 + IoU) / 2, with the mean span overlap of the labels found (`metrics.attribution_f1`, `span_iou`; a
    defect without a span covers the clip). So a right label earns at least half of its worth wherever it is
    placed, and a good span cannot pay for a wrong label. By dimension, so that a false alarm costs something
    even in an answer that gets another dimension wrong. Severity is left to `grade_agreement`. Our choice.
    """
    if defects is None:
        return None
    if report is None:
        return MINIMUM
    grades = []
    for dimension in DIMENSIONS:
        found, real = ([d for d in given if d.dimension == dimension] for given in (report.defects, defects))
        names = attribution_f1([found], [real])
        overlap = span_iou([found], [real], durations=[duration]) if names.n_correct else 0.0
        grades.append(1.0 if names.f1 is None else names.f1 * (1 + overlap) / 2)
    return fmean(grades)


def grade_agreement(report: Report | None) -> float:
    """Whether the severities that an answer names carry the levels that it gives; mean over dimensions.

    Each defect takes 3.5 levels times its severity off 5, all together at most 3; a written level within 1.25
    of what is left is free (no defect: good or excellent; slight: fair to excellent; moderate: poor to good;
    severe: bad to fair), and from there the grade falls linearly to 0 at 4 levels. A band, since spans and
    raters matter too, and this grader must never argue against accuracy. Our choice, measured on the world:
    true defects with rounded MOS lie in the band in 99.7 % of dimensions, those of another clip in 57 %.
    """
    if report is None:
        return MINIMUM
    grades = []
    for dimension in DIMENSIONS:
        lost = LOST * math.fsum(d.severity for d in report.defects if d.dimension == dimension)
        gap = abs(report.levels[dimension] - (len(LEVELS) - min(lost, MOST_LOST)))
        grades.append(1 - max(0.0, gap - SLACK) / (_WIDTH - SLACK))
    return fmean(grades)


def _mean(values: Iterable[Grade]) -> Grade:
    """Mean of what is known, or `None` when nothing is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _check_batch(
    texts: Sequence[str], records: Sequence[Record], groups: Sequence[Hashable], durations: Sequence[float]
) -> None:
    sizes = [len(texts), len(records), len(groups), len(durations)]
    if len(set(sizes)) > 1:
        raise ConfigError(f"expected one text, record, group and duration for each answer, got {sizes}")
    clips: dict[Hashable, tuple[Record, float]] = {}
    for text, record, group, duration in zip(texts, records, groups, durations, strict=True):
        if not isinstance(text, str):
            raise ConfigError(f"expected answers as text, got {type(text).__name__}; pass their content")
        if not 0 < duration < math.inf:
            raise ConfigError(f"expected the clip's duration in seconds, above 0, got {duration}")
        if clips.setdefault(group, (record, duration)) != (record, duration):
            raise ConfigError(f"group {group!r} mixes clips; give each clip a group of its own")
