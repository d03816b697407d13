"""What keeps a score from its ceiling? Clips of the rendered world by their defects, and by what they show.

    qsave eval --model tiny --data world:test --limit 1000 --attribution-limit 0 --out outputs/eval_tiny
    python recipes/reward/gaps.py outputs/eval_tiny

For each dimension two tables with a row for each kind of clip: how many there are, by how much their scores
are off the raters' on average, how well the score orders them (SRCC with the raters), how well it tells them
from clips without a defect (area under the curve), and by how much the SRCC over all clips would rise if the
true quality stood in place of the score of these clips alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.evaluate.saved import load_evaluation
from qsave_reward.evaluate.summary import columns
from qsave_reward.metrics import srcc
from qsave_reward.types import DIMENSIONS
from qsave_reward.world import WorldPlan, parse_world_name, world_plan

NONE, SEVERAL = "none", "several"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Gap:
    """What one kind of clip costs.

    Attributes:
        label: of the kind: a defect, `NONE`, `SEVERAL`, or what the prompt asks for.
        n: clips of this kind.
        bias: mean of score - MOS, in score points.
        within: SRCC of score and MOS among these clips; NaN for fewer than three or where all are alike.
        told: area under the curve of the score between these clips and those of kind `NONE`; NaN for
            `NONE` itself or where there are none.
        gain: SRCC over all clips with the true quality of these in place of their score, minus that without.
    """

    label: str
    n: int
    bias: float
    within: float
    told: float
    gain: float


def area_under_curve(bad: Floats, good: Floats) -> float:
    """How often a bad clip has a lower score than a good one, ties counting half.

    Raises:
        ConfigError: `undefined` where there are no bad or no good ones.
    """
    if not (len(bad) and len(good)):
        raise ConfigError(f"expected bad and good clips, got {len(bad)} and {len(good)}", code="undefined")
    return float((np.sign(good[:, None] - bad) / 2 + 0.5).mean())


def gaps(kinds: Sequence[str], scores: Floats, mos: Floats, truth: Floats) -> list[Gap]:
    """One `Gap` for each kind of clip, the most costly first.

    Args:
        kinds: of each clip, [n].
        scores: of one dimension, [n].
        mos: of the raters, [n].
        truth: `WorldPlan.latent`, [n].
    """
    names = np.array(kinds)
    clean, now = scores[names == NONE], srcc(scores, mos)
    found = []
    for label in dict.fromkeys(kinds):
        chosen = names == label
        own = scores[chosen]
        area = area_under_curve(own, clean) if label != NONE and len(clean) else float("nan")
        gain = srcc(np.where(chosen, truth, scores), mos) - now
        bias = float((own - mos[chosen]).mean())
        found.append(Gap(label, len(own), bias, _within(own, mos[chosen]), area, gain))
    return sorted(found, key=lambda gap: -gap.gain)


def _within(scores: Floats, mos: Floats) -> float:
    try:
        return srcc(scores, mos) if len(scores) > 2 else float("nan")
    except ConfigError as error:
        if error.code != "undefined":
            raise
        return float("nan")  # all alike


def kind_of(plan: WorldPlan, dimension: str) -> str:
    """The only defect that a clip has in a dimension, `NONE` or `SEVERAL`."""
    labels = [defect.label for defect in plan.defects if defect.dimension == dimension]
    return NONE if not labels else labels[0] if len(labels) == 1 else SEVERAL


def asked(plan: WorldPlan) -> str:
    """What a prompt asks for: a relation of objects, a camera move, or else some groups of them."""
    if plan.scene.relation:
        return "a relation"
    if plan.scene.camera:
        return "a camera move"
    number = len(plan.scene.groups)
    return "1 group" if number == 1 else f"{number} groups"


def table(found: Sequence[Gap]) -> list[str]:
    """Markdown, a row for each kind of clip."""
    lines = [
        "| clips with, or asking for | n | bias | SRCC within | AUC against none | SRCC if known |",
        "|---" * 6 + "|",
    ]
    for gap in found:
        area = "" if np.isnan(gap.told) else f"{gap.told:.2f}"
        numbers = f"{gap.bias:+.2f} | {gap.within:.2f} | {area} | {gap.gain:+.3f}"
        lines.append(f"| {gap.label} | {gap.n} | {numbers} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="what `qsave eval --out` wrote")
    evaluation = load_evaluation(parser.parse_args().folders)
    split, seed = parse_world_name(evaluation.data)
    for dimension in DIMENSIONS:
        found = columns(evaluation.predictions, dimension)
        plans = [world_plan(split, prediction.index, seed=seed) for prediction in found.predictions]
        truth = np.array([plan.latent[dimension] for plan in plans])
        now, ceiling = srcc(found.predicted, found.truth), srcc(truth, found.truth)
        print(f"\n{dimension.replace('_', ' ')}: SRCC {now:.3f}, of the true quality {ceiling:.3f}\n")
        for kinds in ([kind_of(plan, dimension) for plan in plans], [asked(plan) for plan in plans]):
            print("\n".join([*table(gaps(kinds, found.predicted, found.truth, truth)), ""]))
    if failed := evaluation.n_failed:
        print(f"{failed} clips that could not be scored are left out.")


if __name__ == "__main__":
    try:
        main()
    except QSaveError as error:
        sys.exit(f"error: {error}")
