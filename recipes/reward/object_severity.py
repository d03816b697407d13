"""Visual tokens say how bad what is wrong with their object is: dense labels of severity.

A score alone teaches very slowly how far a jump went or how much an outline bends: it has to be pooled from a
few tokens of a few chunks first. Here each token that shows an object of a damaged clip says the level that
the damage leaves, chunk by chunk, so that "excellent" stands before and after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from token_targets import NOTHING

from qsave_reward.types import LEVELS, Defect
from qsave_reward.world import WorldPlan
from qsave_reward.world.defects import in_span
from qsave_reward.world.raters import latent_quality
from qsave_reward.world.stream import plan_effects

SEVERITY_KINDS = {"bent": "shape distortion", "moved": "jump", "morphed": "morphing"}
"""Kinds of facts, and the defect of objects that each tells the severity of."""

SOUND_SHARE = 0.15
"""Of the clips without such a defect, which are asked too: most clips have none."""


def severity_labels(
    plan: WorldPlan, grids: Sequence[tuple[int, int]], there: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What each visual token of a clip is to say of each of `SEVERITY_KINDS`: int64 [tokens], index into
    `LEVELS`, or `NOTHING` where no object is.

    A morphing grows: in each chunk the level is that of how far it has come.

    Args:
        plan: of the clip.
        grids: rows and columns of tokens of each chunk, which is a pair of frames.
        there: bool [tokens], which show an object.
    """
    labels = {kind: torch.full(there.shape, NOTHING) for kind in SEVERITY_KINDS}
    sizes = torch.tensor([rows * columns for rows, columns in grids])
    for number, (kind, label) in enumerate(SEVERITY_KINDS.items()):
        found = next((defect for defect in plan.defects if defect.label == label), None)
        if found is None and np.random.default_rng([*plan.entropy, number]).random() >= SOUND_SHARE:
            continue
        worst = torch.from_numpy(_levels(plan, found).reshape(-1, 2).min(axis=1))
        labels[kind][there] = worst.repeat_interleave(sizes)[there]
    return labels


def _levels(plan: WorldPlan, defect: Defect | None) -> NDArray[np.int64]:
    """[frames] index of the level that a defect leaves in each frame."""
    times = np.arange(plan.config.num_frames) / plan.config.fps
    best = len(LEVELS) - 1
    if defect is None:
        return np.full(len(times), best)
    if defect.label == "morphing":
        return np.rint(best * (1 - plan_effects(plan).morph)).astype(np.int64)
    always = replace(defect, start=None, end=None)  # how bad it is while it lasts
    left = latent_quality([always], plan.config.num_frames / plan.config.fps)[defect.dimension]
    return np.where(in_span(defect, times), round(left) - 1, best)
