"""An evaluation as one HTML page: the numbers and what to read beside them, plots, the worst cases to see.

As the pages of `report` it needs no network, no script and no other file, and treats all text as hostile.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from qsave_reward.data import write_lines
from qsave_reward.errors import QSaveError
from qsave_reward.evaluate.data import open_video
from qsave_reward.evaluate.plots import Plot, generator_plot, score_plot, spread_plot
from qsave_reward.evaluate.predictions import Prediction
from qsave_reward.evaluate.run import Evaluation
from qsave_reward.evaluate.summary import BASELINES, VIEWS, columns, rated
from qsave_reward.media import preview, still
from qsave_reward.paths import absolute_path
from qsave_reward.prompt import DIMENSION_NAMES
from qsave_reward.report import clean, fill_template, relative_link
from qsave_reward.types import DIMENSIONS, Defect, VideoScore
from qsave_reward.video import Clip, Sampling, read_clip

WORST = 3
"""Clips shown for each dimension: those with the largest errors."""

STILLS, STILL_HEIGHT = 6, 96
"""Frames shown of a clip, and their height in pixels."""

MAX_FRAMES = 24
"""Frames of a moving preview."""

MAX_FAILED = 50
"""Failed items listed."""

NAMES = {**DIMENSION_NAMES, "overall": "overall"}


def write_page(
    evaluation: Evaluation,
    path: str | os.PathLike[str],
    *,
    worst: int = WORST,
) -> None:
    """Write the page.

    The clips of the worst cases are read, or rendered, once more. One that is gone is shown without pictures.

    Args:
        evaluation: from `evaluate` or `load_evaluation`.
        path: of the HTML file.
        worst: clips shown for each dimension.

    Raises:
        ConfigError: when `path` cannot be written.
    """
    names = rated(evaluation.predictions)
    sections = [_section(evaluation, name, os.fspath(path), worst) for name in names]
    text = fill_template(
        "evaluation.html.j2",
        evaluation=evaluation,
        data=clean(evaluation.data),
        sections=sections,
        ceiling=_known_ceiling(evaluation),
        low=_low(evaluation),
        attribution=evaluation.results["attribution"],
        names=DIMENSION_NAMES,
        failed=[
            {key: clean(str(text)) for key, text in item.items()}
            for item in evaluation.failed_items[:MAX_FAILED]
        ],
    )
    write_lines(path, [text])


def _section(evaluation: Evaluation, name: str, page: str, worst: int) -> dict[str, Any]:
    """One dimension: its rows by name of the view or baseline, its plots and its worst cases."""
    found = columns(evaluation.predictions, name)
    rows = {view: evaluation.results[view].get(name) for view in VIEWS}
    plots: list[Plot] = [score_plot(found)] if found.predictions else []
    if len(rows["generator_level"]["generators"]) > 1:
        plots.append(generator_plot(rows["generator_level"]["generators"]))
    if rows["calibration"] and rows["calibration"]["bins"]:
        plots.append(spread_plot(rows["calibration"]["bins"]))
    errors = found.predicted - found.truth
    # Of equal errors the earlier item comes first.
    order = np.argsort(-np.abs(errors), kind="stable")[:worst].tolist()
    return {
        "id": name,
        "name": NAMES[name],
        "row": evaluation.results[name],
        **rows,
        "baselines": {baseline: evaluation.baselines[baseline][name] for baseline in BASELINES},
        "plots": plots,
        "worst": [_case(evaluation.data, found.predictions[i], name, page) for i in order],
    }


def _case(data: str, prediction: Prediction, name: str, page: str) -> dict[str, Any]:
    """One clip: what was said, what is true, and pictures of it."""
    record, card = prediction.record, prediction.card
    assert isinstance(card, VideoScore)
    score = None if name == "overall" else card.scores[name]
    predicted = card.overall if score is None else score.mean
    truth = record.overall if name == "overall" else record.mos[name]
    assert truth is not None
    std = None if score is None else score.std
    ends = {"low": predicted - (std or 0.0), "high": predicted + (std or 0.0)}
    return {
        "file": clean(record.id or record.video),
        "prompt": clean(record.prompt),
        "generator": record.generator and clean(record.generator),
        "predicted": predicted,
        "std": std,
        "truth": truth,
        "places": {key: _place(at) for key, at in {"predicted": predicted, "truth": truth, **ends}.items()},
        "known": _defects(record.defects, name),
        "named": _defects(prediction.defects, name),
        "reasoning": prediction.reasoning and clean(prediction.reasoning),
        "warnings": [clean(warning) for warning in card.warnings],
        **_pictures(data, prediction, page),
    }


def _place(score: float) -> float:
    """Place on the axis from 1 to 5, in %."""
    return 25 * (min(max(score, 1.0), 5.0) - 1)


def _defects(defects: tuple[Defect, ...] | None, name: str) -> list[str] | None:
    """Defects of a dimension (of all for the overall score) in words."""
    if defects is None:
        return None
    return [
        clean(f"{d.label} {d.severity:.2f}")
        + ("" if d.start is None or d.end is None else f", {d.start:.1f}–{d.end:.1f} s")
        for d in defects
        if name not in DIMENSIONS or d.dimension == name
    ]


def _pictures(data: str, prediction: Prediction, page: str) -> dict[str, Any]:
    """`preview` (moving), `stills`, `link`, and `problem` when the clip cannot be read again."""
    nothing: dict[str, Any] = {"preview": None, "stills": [], "link": None, "problem": None}
    try:
        video = open_video(data, prediction.record)
        clip = video if isinstance(video, Clip) else read_clip(video, Sampling(max_frames=MAX_FRAMES))
    except QSaveError as error:
        return nothing | {"problem": clean(f"The clip cannot be read again: {error}")}
    height, width = clip.frames.shape[1:3]
    size = (max(1, round(STILL_HEIGHT * width / height)), STILL_HEIGHT)
    chosen = np.unique(np.linspace(0, len(clip.frames) - 1, STILLS).round().astype(int)).tolist()
    return nothing | {
        "preview": preview(clip),
        "stills": [{"uri": still(clip.frames[i], size), "time": float(clip.times[i])} for i in chosen],
        "link": None if isinstance(video, Clip) else relative_link(absolute_path(video), page),
    }


def _known_ceiling(evaluation: Evaluation) -> dict[str, Any]:
    """The row of the first dimension whose ceiling is known, else of any; all have one source."""
    rows = list(evaluation.baselines["ceiling"].values())
    return next((row for row in rows if row["source"]), rows[0])


def _low(evaluation: Evaluation) -> float:
    """Low end of the axis on which the correlations are drawn, whose high end is 1."""
    intervals = [
        row[name]["ci95"]
        for row in (evaluation.results, evaluation.baselines["random"])
        for name in rated(evaluation.predictions)
    ]
    return min([-0.2, *(float(interval[0]) for interval in intervals if interval)])
