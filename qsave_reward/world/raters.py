"""How good a clip is, and what people would answer: latent quality, ratings, mean opinion scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsave_reward.types import DIMENSIONS, Defect
from qsave_reward.world.defects import share_of_clip

Floats = NDArray[np.float64]

WEIGHTS = {
    "blur": 0.95,
    "noise": 0.95,
    "blockiness": 0.95,
    "exposure": 0.9,
    "color cast": 0.8,
    "banding": 0.8,
    "shape distortion": 0.95,
    "freeze": 0.95,
    "jitter": 0.95,
    "flicker": 0.95,
    "jump": 0.85,
    "ghosting": 0.85,
    "morphing": 0.95,
    "implausible speed": 0.9,
    "missing object": 0.95,
    "wrong color": 0.9,
    "wrong shape": 0.9,
    "wrong count": 0.9,
    "wrong motion": 0.9,
    "wrong relation": 0.9,
}
"""Share of the quality a defect of severity 1 over the whole clip takes away."""

GAMMA = 0.85
"""Exponent of the severity: the first step away from clean costs most."""
BIAS = 0.2
"""Standard deviation of a rater's personal leniency, in score points."""
NOISE = {"visual_quality": 0.65, "dynamic_quality": 0.65, "text_alignment": 1.1}
"""Standard deviation of a single answer, in score points."""
OVERALL = {"visual_quality": 0.3, "dynamic_quality": 0.3, "text_alignment": 0.4}
"""How raters mix the dimensions into an overall impression."""


@dataclass(frozen=True)
class Opinion:
    """Answers of all raters, half points 1..5; their means; and the mean overall score."""

    ratings: dict[str, tuple[float, ...]]
    mos: dict[str, float]
    overall: float


def latent_quality(defects: Sequence[Defect], duration: float) -> dict[str, float]:
    """True quality of each dimension, 1 to 5: every defect takes away a share of what the others left."""
    kept = dict.fromkeys(DIMENSIONS, 1.0)
    for defect in defects:
        extent = 0.5 + 0.5 * share_of_clip(defect, duration)
        kept[defect.dimension] *= 1 - WEIGHTS[defect.label] * defect.severity**GAMMA * extent
    return {dimension: 1 + 4 * share for dimension, share in kept.items()}


def overall_quality(latent: dict[str, float]) -> float:
    """True quality of the whole, 1 to 5."""
    return sum(OVERALL[dimension] * quality for dimension, quality in latent.items())


def rate(latent: dict[str, float], raters: int, rng: np.random.Generator) -> Opinion:
    """Let `raters` people judge a clip of the given latent quality."""
    bias = rng.normal(0, BIAS, raters)
    ratings = {}
    for dimension, quality in latent.items():
        felt = quality + bias + rng.normal(0, NOISE[dimension], raters)
        ratings[dimension] = tuple(float(value) for value in _half_points(felt))
    felt = overall_quality(latent) + bias + rng.normal(0, 0.3, raters)
    mos = {dimension: float(np.mean(values)) for dimension, values in ratings.items()}
    return Opinion(ratings, mos, float(np.mean(_half_points(felt))))


def _half_points(values: Floats) -> Floats:
    points: Floats = np.clip(np.rint(2 * values) / 2, 1.0, 5.0)
    return points
